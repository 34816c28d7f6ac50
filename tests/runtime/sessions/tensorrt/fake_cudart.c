/* A small libcudart for the ctypes prototypes: on the host's memory, with CUDA 12's signatures. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
typedef void *handle;

#ifndef DEVICES
#define DEVICES 1
#endif

/* What the last call was given: 64-bit values must arrive whole. */
unsigned long long last[5];

static status keep(unsigned long long a, unsigned long long b, unsigned long long c,
                   unsigned long long d, unsigned long long e) {
  unsigned long long given[5] = {a, b, c, d, e};
  memcpy(last, given, sizeof last);
  return 0;
}
#define U(x) ((unsigned long long)(x))
#define BIG ((handle)0x7f0123456789abcUL)

status cudaGetDeviceCount(int *count) { *count = DEVICES; return DEVICES ? 0 : 100; }
status cudaDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute * 10 + device;
  return 0;
}
const char *cudaGetErrorName(int error) { return error == 2 ? "cudaErrorMemoryAllocation" : "other"; }
const char *cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "no device"; }
status cudaGetLastError(void) { return 2; }
status cudaStreamCreateWithFlags(handle *out, unsigned flags) { *out = BIG; return keep(flags, 0, 0, 0, 0); }
status cudaStreamDestroy(handle a) { return keep(U(a), 0, 0, 0, 0); }
status cudaStreamSynchronize(handle a) { return keep(U(a), 0, 0, 0, 0); }
status cudaEventCreateWithFlags(handle *out, unsigned flags) { *out = BIG; return keep(flags, 0, 0, 0, 0); }
status cudaEventDestroy(handle a) { return keep(U(a), 0, 0, 0, 0); }
status cudaEventRecord(handle a, handle b) { return keep(U(a), U(b), 0, 0, 0); }
status cudaEventSynchronize(handle a) { return keep(U(a), 0, 0, 0, 0); }
status cudaHostAlloc(handle *out, size_t size, unsigned flags) {
  if (size > 1UL << 40) return 2;
  *out = malloc(size);
  return keep(size, flags, 0, 0, 0);
}
status cudaHostGetDevicePointer(handle *out, handle host, unsigned flags) {
  *out = host;
  return keep(U(host), flags, 0, 0, 0);
}
status cudaFreeHost(handle a) { free(a); return 0; }
status cudaMalloc(handle *out, size_t size) { *out = malloc(size); return keep(size, 0, 0, 0, 0); }
status cudaFree(handle a) { free(a); return 0; }
status cudaMemcpyAsync(handle to, const void *from, size_t size, int kind, handle stream) {
  memcpy(to, from, size);
  return keep(U(to), U(from), size, U(kind), U(stream));
}
status cudaStreamBeginCapture(handle a, int mode) { return keep(U(a), U(mode), 0, 0, 0); }
status cudaStreamEndCapture(handle a, handle *out) { *out = BIG; return keep(U(a), 0, 0, 0, 0); }
status cudaGraphInstantiate(handle *out, handle graph, unsigned long long flags) {
  *out = BIG;
  return keep(U(graph), flags, 0, 0, 0);
}
status cudaGraphLaunch(handle a, handle b) { return keep(U(a), U(b), 0, 0, 0); }
status cudaGraphDestroy(handle a) { return keep(U(a), 0, 0, 0, 0); }
status cudaGraphExecDestroy(handle a) { return keep(U(a), 0, 0, 0, 0); }
