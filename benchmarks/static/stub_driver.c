/* Stands in for CUDA's driver, libcuda.so.1, so that Triton loads and launches kernels on a machine without a GPU.
 *
 * Kernels do not run: launches are counted, and the last one is remembered. Every function succeeds (0); those that Triton reads something from write a
 * value with which it goes ahead. Arguments are declared only as far as they are used. Checked with Triton 3.6 to 3.8. */

#include <stdint.h>
#include <string.h>

static long launches, functions;
static int arguments;
static uint64_t last[64];
long stub_launches(void) { return launches; }

/* Of the next launches the first n arguments are remembered. */
void stub_remember(int n) { arguments = n; }

/* Of the last launch: grid and block (x, y, z), stream, function, and the first four bytes of each argument. */
const uint64_t *stub_last(void) { return last; }

struct config { unsigned size[7]; void *stream; };

int cuLaunchKernelEx(const struct config *config, void *function, void **values) {
    launches++;
    for (int i = 0; i < 6; i++) last[i] = config->size[i];
    last[6] = (uint64_t)config->stream;
    last[7] = (uint64_t)function;
    for (int i = 0; i < arguments; i++) memcpy(last + 8 + i, values[i], 4);
    return 0;
}

int cuModuleLoadData(void **module) { *module = &launches; return 0; }
int cuModuleGetFunction(void **function) { *function = (void *)++functions; return 0; }
int cuCtxGetCurrent(void **context) { *context = &launches; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "an error of the stub"; return 0; }
int cuDeviceGet(int *device) { *device = 0; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuCtxGetLimit(uint64_t *limit) { *limit = 0; return 0; }
int cuOccupancyMaxActiveClusters(int *clusters) { *clusters = 1; return 0; }

/* Of all attributes Triton needs one to be large: the shared memory that a program may have, 227 KB on an H200. */
int cuDeviceGetAttribute(int *value) { *value = 227 << 10; return 0; }

/* Attribute 0 is the number of threads that a program may have, 3 the registers on the stack. */
int cuFuncGetAttribute(int *value, int attribute) { *value = attribute ? 0 : 1024; return 0; }

/* Where a tensor is: the host's address stands for one on the device. */
int cuPointerGetAttribute(uint64_t *value, int attribute, uint64_t pointer) { *value = pointer; return 0; }
int cuPointerGetAttributes(void) { return 0; }

int cuInit(void) { return 0; }
int cuDevicePrimaryCtxRetain(void **context) { *context = &launches; return 0; }
int cuCtxSetCurrent(void) { return 0; }
int cuCtxSetLimit(void) { return 0; }
int cuModuleUnload(void) { return 0; }
int cuFuncSetAttribute(void) { return 0; }
int cuFuncSetCacheConfig(void) { return 0; }
int cuTensorMapEncodeTiled(void) { return 0; }
int cuTensorMapEncodeIm2col(void) { return 0; }
int cuTensorMapEncodeIm2colWide(void) { return 0; }
