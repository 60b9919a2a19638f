// NEON with dot products of unsigned and signed bytes (ARMv8.6).
#include "plan.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif

#define HF_PATH neoni8mm
#define HF_NEON 1
#define HF_I8MM 1
#define HF_LANES 4
#define HF_WIDEST 3
#define HF_QUERIES 3
#define HF_KEYS 8
#define HF_CHUNK 32768
#include "kernel.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace hf_mpq {
extern const Path NEON_I8MM;
static bool available() {
#if defined(__linux__)
  return getauxval(AT_HWCAP2) >> 13 & 1;  // HWCAP2_I8MM
#elif defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return !sysctlbyname("hw.optional.arm.FEAT_I8MM", &found, &size, nullptr, 0) && found;
#else
  return false;
#endif
}
const Path NEON_I8MM{"neon-i8mm", available, neoni8mm::bytes_of, neoni8mm::run, neoni8mm::pool_bytes, neoni8mm::pool, neoni8mm::decode};
}  // namespace hf_mpq
#endif
