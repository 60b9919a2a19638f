// NEON with dot products of signed bytes (ARMv8.2).
#include "plan.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#define HF_PATH neondot
#define HF_NEON 1
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
extern const Path NEON_DOT;
static bool available() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0) && found;
#else
  return false;
#endif
}
const Path NEON_DOT{"neon-dot", available, neondot::bytes_of, neondot::run, neondot::pool_bytes, neondot::pool, neondot::decode};
}  // namespace hf_mpq
#endif
