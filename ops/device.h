/* ops/device.h - which backend computes: the CPU's, which is built in, or one that is loaded.
 *
 * backend_cuda.so lies beside the program, in ../lib/trireme from there, or in the folder that TRIREME_PLUGIN_DIR names; it needs no driver to load.
 * Tests may name another one with TRIREME_CUDA_EMULATED, which executes the same kernels on the CPU: only an explicit `cuda` takes it, and what it is
 * stands in every description. */
#ifndef OPS_DEVICE_H
#define OPS_DEVICE_H

#include "ops/ops.h"

typedef enum ops_device_kind { OPS_DEVICE_AUTO, OPS_DEVICE_CPU, OPS_DEVICE_CUDA } ops_device_kind;

/* "auto", "cpu", "cuda"; false if unknown. */
bool ops_device_parse(const char *text, ops_device_kind *out);

/* The backend of that kind.  AUTO: CUDA where a device can be used, else the CPU; it never fails, and `why` (may be NULL; "" if there is nothing to say) tells what kept
 * it from a device where the plugin is installed.  CUDA: ST_UNSUPPORTED or ST_NOT_FOUND with the remedy. */
status ops_device_open(ops_device_kind kind, const ops_backend **out, char *why, size_t why_bytes);

/* One line for each backend, for --version: "cuda: CUDA 13.0, sm_80 sm_90 sm_100; no CUDA device (...)". */
void ops_device_list(char *out, size_t bytes);

#endif
