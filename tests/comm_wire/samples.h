/* tests/comm_wire/samples.h - one packed message of each kind, with most fields filled: what mutations start from, and the fuzzer's first inputs. */
#ifndef TESTS_COMM_WIRE_SAMPLES_H
#define TESTS_COMM_WIRE_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

enum { SAMPLES = 13, SAMPLE_BYTES = 1024 };
/* The number of bytes. */
size_t sample_write(int which, uint8_t out[SAMPLE_BYTES]);

#endif
