// The table of kernels, filled once from the best instruction set this CPU and CHAINRULE_ISA allow.
// Compiled for the baseline CPU, so that an older one is refused with a sentence instead of an illegal instruction.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.hpp"
#include "integers.hpp"

namespace chainrule {

// Each level's kernels, defined in cpp/kernels/*.cpp compiled for that level.
#define CHAINRULE_DECLARE_KERNEL(name, S) chainrule_##name##_##S##_fn name##_##S;
#if defined(__x86_64__) || defined(_M_X64)
namespace avx2 { CHAINRULE_KERNELS(CHAINRULE_DECLARE_KERNEL) }
namespace avx512 { CHAINRULE_KERNELS(CHAINRULE_DECLARE_KERNEL) }
#else
namespace neon { CHAINRULE_KERNELS(CHAINRULE_DECLARE_KERNEL) }
#endif

namespace {

char load_error[256] = "";

#define CHAINRULE_ENTRY(name, S) name##_##S,
#define CHAINRULE_TABLE(isa)                                                                            \
  {                                                                                                     \
    using namespace isa;                                                                                \
    static const chainrule_api table = {CHAINRULE_ABI_VERSION, sizeof(chainrule_api), CHAINRULE_VERSION, #isa, \
                                        get_num_threads, set_num_threads, uniforms, encode,            \
                                        CHAINRULE_KERNELS(CHAINRULE_ENTRY)};                            \
    return &table;                                                                                      \
  }

#if defined(__x86_64__) || defined(_M_X64)
const char *missing_v3() {
#define CHAINRULE_NEED(feature) \
  if (!__builtin_cpu_supports(feature)) return feature;
  CHAINRULE_NEED("avx") CHAINRULE_NEED("avx2") CHAINRULE_NEED("fma") CHAINRULE_NEED("bmi") CHAINRULE_NEED("bmi2")
  CHAINRULE_NEED("f16c") CHAINRULE_NEED("lzcnt") CHAINRULE_NEED("movbe")
  return nullptr;
}
const char *missing_v4() {
  CHAINRULE_NEED("avx512f") CHAINRULE_NEED("avx512bw") CHAINRULE_NEED("avx512cd") CHAINRULE_NEED("avx512dq")
  CHAINRULE_NEED("avx512vl")
#undef CHAINRULE_NEED
  return nullptr;
}

#ifdef CHAINRULE_WITHOUT_AVX512  // builds with sanitizers
#define CHAINRULE_TABLE_AVX512
#else
#define CHAINRULE_TABLE_AVX512 \
  if (!missing) CHAINRULE_TABLE(avx512)
#endif

const chainrule_api *choose() {
  __builtin_cpu_init();
  if (const char *feature = missing_v3()) {
    snprintf(load_error, sizeof load_error,
             "chainrule needs an x86-64-v3 processor (AVX2 and FMA: Intel since 2013, AMD since 2015); this one lacks %s",
             feature);
    return nullptr;
  }
  const char *missing = missing_v4();
  const char *forced = getenv("CHAINRULE_ISA");
  if (!forced || !*forced) {
    CHAINRULE_TABLE_AVX512
    CHAINRULE_TABLE(avx2)
  }
  if (!strcmp(forced, "avx2")) CHAINRULE_TABLE(avx2)
  if (!strcmp(forced, "avx512")) {
    CHAINRULE_TABLE_AVX512
    snprintf(load_error, sizeof load_error, "CHAINRULE_ISA=avx512 cannot be had: this %s lacks %s",
             missing ? "processor" : "build", missing ? missing : "it");
    return nullptr;
  }
  snprintf(load_error, sizeof load_error, "CHAINRULE_ISA must be avx2 or avx512 on x86-64, not \"%.32s\"", forced);
  return nullptr;
}
#else
const chainrule_api *choose() {
  const char *forced = getenv("CHAINRULE_ISA");
  if (!forced || !*forced || !strcmp(forced, "neon")) CHAINRULE_TABLE(neon)
  snprintf(load_error, sizeof load_error, "CHAINRULE_ISA must be neon on aarch64, not \"%.32s\"", forced);
  return nullptr;
}
#endif

}  // namespace
}  // namespace chainrule

extern "C" const chainrule_api *chainrule_get_api(uint32_t abi_version) {
  static const chainrule_api *table = chainrule::choose();
  static char wrong_version[96];
  if (abi_version == CHAINRULE_ABI_VERSION) return table;
  snprintf(wrong_version, sizeof wrong_version, "this libchainrule has ABI version %d, the caller asked for %u",
           CHAINRULE_ABI_VERSION, abi_version);
  if (table) memcpy(chainrule::load_error, wrong_version, sizeof wrong_version);
  return nullptr;
}

extern "C" const char *chainrule_load_error(void) { return chainrule::load_error; }
