/* gcc's address sanitizer has empty functions for coverage, and it must be loaded before libFuzzer, which has the real ones. This library
   is loaded before both. It gives each call to the library that FR_FUZZER names; a tail call, so that the place of the caller is kept. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

static void *find(const char *name) {
    void *library = dlopen(getenv("FR_FUZZER"), RTLD_NOLOAD | RTLD_LAZY);
    return library ? dlsym(library, name) : NULL;
}

#define FORWARD(name, first, second)                                 \
    void name(first a, second b) {                                   \
        static void (*function)(first, second);                      \
        if (!function && !(function = find(#name))) return;          \
        function(a, b);                                              \
    }

FORWARD(__sanitizer_cov_8bit_counters_init, uint8_t *, uint8_t *)
FORWARD(__sanitizer_cov_pcs_init, const uintptr_t *, const uintptr_t *)
FORWARD(__sanitizer_cov_trace_cmp1, uint8_t, uint8_t)
FORWARD(__sanitizer_cov_trace_cmp2, uint16_t, uint16_t)
FORWARD(__sanitizer_cov_trace_cmp4, uint32_t, uint32_t)
FORWARD(__sanitizer_cov_trace_cmp8, uint64_t, uint64_t)
FORWARD(__sanitizer_cov_trace_const_cmp1, uint8_t, uint8_t)
FORWARD(__sanitizer_cov_trace_const_cmp2, uint16_t, uint16_t)
FORWARD(__sanitizer_cov_trace_const_cmp4, uint32_t, uint32_t)
FORWARD(__sanitizer_cov_trace_const_cmp8, uint64_t, uint64_t)
FORWARD(__sanitizer_cov_trace_switch, uint64_t, uint64_t *)

void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }
