// The proof of the contract (docs/reproducibility.md): a digest per kernel and precision of results on fixed inputs.
//
//   chainrule_digest [threads = 0] [rows = 0]      rows of one call; 0: all at once
//
// The lines must be the same for every instruction set (CHAINRULE_ISA), number of threads and number of rows, and those
// of tests/golden/digest.txt. Static, so that an emulator runs it. One file for each family of kernels (digest.hpp).
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "digest.hpp"

using namespace proof;

namespace {

void flush_denormals() {
#if defined(__x86_64__)
  _mm_setcsr(0x1F80 | 0x8040);  // IEEE defaults, but flush to zero, denormals are zero
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(uint64_t(1) << 24));
#endif
}

// The order of the lines.
template <class T> void kernels() {
  nade<T>(), bernoulli<T>(), categorical<T>(), optimizers<T>(), map<T>(), logsumexp<T>();
  nade_categorical<T>(), products<T>(), networks<T>(), live_ranges<T>(), logistic_mixture<T>();
  convolutions<T>(), gated_blocks<T>(), embeddings<T>(), generation<T>();
  layers<T>(), vocabularies<T>(), turned_embeddings<T>();
  attentions<T>(), packed_products<T>(), transformers<T>();
}

}  // namespace

int main(int argc, char **argv) {
  exec.n_threads = argc > 1 ? atoi(argv[1]) : 0;
  rows_at_once = argc > 2 ? size_t(atoi(argv[2])) : 0;
  api = chainrule_get_api(CHAINRULE_ABI_VERSION);
  if (!api) {
    fprintf(stderr, "%s\n", chainrule_load_error());
    return 2;
  }
  fprintf(stderr, "chainrule %s, %s\n", api->version, api->isa);
  flush_denormals();
  kernels<float>(), kernels<double>(), uniforms(), encode();
  line("all", all);
}
