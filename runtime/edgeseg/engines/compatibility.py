"""Does an engine from the cache run here? Asked before TensorRT is given a single byte of it."""

from __future__ import annotations

from edgeseg.engines.device import Device
from edgeseg.engines.document import EngineKey
from edgeseg.engines.library import Library


def obstacles(key: EngineKey, library: Library, device: Device) -> list[str]:
    """Return what an engine was built for and what is here instead; empty if it runs here."""
    found = []
    if key.library != library.flavour or not _version_fits(key, library):
        found.append(f"built by {key.library} {key.version}, this is {library.title}")
    if key.device is None:
        targets = key.flags.compute_capabilities
        here = device.compute_capability.replace(".", "")
        if targets and here not in targets:
            found.append(
                f"built for compute capability {', '.join(targets)}, this is {_named(device)}"
            )
    elif not _device_fits(key, key.device, device):
        found.append(f"built for {_named(key.device)}, this is {_named(device)}")
    elif key.flags.hardware_compatibility == "none" and key.device.driver != device.driver:
        found.append(f"built with driver {key.device.driver}, this is {device.driver}")
    return found


def _version_fits(key: EngineKey, library: Library) -> bool:
    if key.version == library.version:
        return True
    built, here = _numbers(key.version), _numbers(library.version)
    return key.flags.version_compatible and built[0] == here[0] and built <= here


def _device_fits(key: EngineKey, built: Device, here: Device) -> bool:
    compatibility = key.flags.hardware_compatibility
    if compatibility == "ampere+":
        return _numbers(here.compute_capability) >= (8, 0)
    if compatibility == "same-compute-capability":
        return here.compute_capability == built.compute_capability
    return (here.name, here.compute_capability) == (built.name, built.compute_capability)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _named(device: Device) -> str:
    return f"{device.name} ({device.compute_capability})"
