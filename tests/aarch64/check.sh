#!/usr/bin/env bash
# Run the base install on aarch64 Linux, a Jetson's architecture, and compare with this machine.
#
#     make aarch64                     or: tests/aarch64/check.sh BUNDLE PICTURE...
#
# An emulator (QEMU's user mode) runs Debian's aarch64 Python, with the wheels that a Jetson gets.
# Nothing is installed on this machine: packages are unpacked into CACHE, about 400 MB, which is
# kept for the next time. Needs an x86-64 Debian 12 (its apt-get and dpkg), no root, and a PYTHON
# with edgeseg, an ONNX Runtime and pip.
set -euo pipefail

ROOT="$(cd "$(dirname "$0")/../.." && pwd)"
CACHE="${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgeseg/aarch64}"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
BUNDLE="${1:-$ROOT/tests/data/tiny_logits}"
PICTURES=("${@:2}")
if [ $# -lt 2 ]; then
  PICTURES=("$ROOT"/docs/samples.png "$ROOT"/tests/data/images/{progressive,cmyk,exif6}.jpg
    "$ROOT"/tests/data/images/{plain.webp,alpha.png})
fi
# JetPack 6's Python is 3.10, for which this is the last release; later ones fail in the emulator.
ONNXRUNTIME="onnxruntime==1.23.2"
DEBIAN=(
  python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libexpat1 zlib1g libffi8
  libssl3 libbz2-1.0 liblzma5 libstdc++6 libgcc-s1 libuuid1 libcrypt1
)

# apt-get with lists and state of its own, so that another architecture needs no root.
apt() {
  mkdir -p "$CACHE/apt/lists/partial" "$CACHE/apt/archives/partial"
  apt-get -qq -o Dir::State="$CACHE/apt" -o Dir::State::Lists="$CACHE/apt/lists" \
    -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$CACHE/apt" \
    -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o Acquire::Languages=none \
    -o APT::Sandbox::User="$(id -un)" "$@"
}

# Unpacked under another name first: what is there under its own is whole.
unpack_debian() {
  rm -rf "$CACHE/debian.partial"
  mkdir -p "$CACHE/debian.partial/debs"
  apt update
  (cd "$CACHE/debian.partial/debs" && apt download qemu-user-static "${DEBIAN[@]/%/:arm64}")
  dpkg-deb --fsys-tarfile "$CACHE"/debian.partial/debs/qemu-user-static_*.deb |
    tar -x -C "$CACHE/debian.partial" ./usr/bin/qemu-aarch64-static
  for package in "$CACHE"/debian.partial/debs/*_arm64.deb; do
    dpkg -x "$package" "$CACHE/debian.partial"
  done
  rm -r "$CACHE/debian.partial/debs"
  mv "$CACHE/debian.partial" "$CACHE/debian"
}

# The wheels that pip would choose there; edgeseg is built anew each time, from this folder.
install_wheels() {
  rm -rf "$CACHE/wheel" "$CACHE/site"
  "$PYTHON" -m pip wheel -qq --no-deps --wheel-dir "$CACHE/wheel" "$ROOT"
  "$PYTHON" -m pip install -qq --target "$CACHE/site" --python-version 3.11 \
    --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_28_aarch64 --only-binary=:all: \
    "$CACHE"/wheel/edgeseg-*.whl "$ONNXRUNTIME"
}

there() {
  PYTHONPATH="$CACHE/site" PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME="$CACHE/home" \
    "$CACHE/debian/usr/bin/qemu-aarch64-static" -cpu max -L "$CACHE/debian" \
    "$CACHE/debian/usr/bin/python3.11" "$@"
}

segment() {  # segment WHERE VARIANT OUT
  "$1" -m edgeseg run "$BUNDLE" "${PICTURES[@]}" --backend ort:cpu --variant "$2" --out "$3" --quiet
}

[ -d "$CACHE/debian" ] || unpack_debian
install_wheels
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
for where in "$PYTHON" there; do
  "$where" -c 'import platform as p, numpy, onnxruntime as o, PIL
print(f"{p.machine()}: Python {p.python_version()}, numpy {numpy.__version__}, "
      f"Pillow {PIL.__version__}, ONNX Runtime {o.__version__}")'
  "$where" -m edgeseg verify "$BUNDLE" --backend ort:cpu
done
for variant in fp32 int8-cpu; do
  segment "$PYTHON" "$variant" "$out/here-$variant"
  segment there "$variant" "$out/there-$variant"
done
"$PYTHON" "$ROOT/tests/aarch64/compare.py" "$out"
