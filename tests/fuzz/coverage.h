/* The Cython core is compiled with gcc's -fsanitize-coverage=trace-pc and this file: one counter for each place in the code, by its address.
   campaign.py hands the counters to libFuzzer. */
#pragma once
#include <stdint.h>

#define FR_NUM_COUNTERS 65536
#define FR_UNCOUNTED __attribute__((no_sanitize("address", "undefined"), no_sanitize_coverage))

__attribute__((visibility("default"))) uint8_t fr_coverage[FR_NUM_COUNTERS];

__attribute__((visibility("hidden"))) FR_UNCOUNTED void __sanitizer_cov_trace_pc(void) {
    uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)fr_coverage;
    fr_coverage[(place ^ place >> 16) % FR_NUM_COUNTERS]++;
}
