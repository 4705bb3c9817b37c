"""Break one line of a kernel at a time: the numbers or the bits must change each time, or the checks check nothing.

Each mutant is compiled alone, for one instruction set, float and the sigmoid, and linked with tests/mutation/*.cpp, to
be compared with the equations; its digest is printed. A change of blocking alone must change neither: the contract.
"""

import concurrent.futures
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "cpp"
ISA, FLAGS = {"x86_64": ("avx2", ["-march=x86-64-v3"]), "aarch64": ("neon", [])}.get(platform.machine(), (None, None))
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

pytestmark = [
    pytest.mark.skipif(
        not SOURCE.is_dir(), reason="the C++ sources are not here (an installed package is being tested)"
    ),
    pytest.mark.skipif(os.name == "nt" or ISA is None, reason="knows GCC and Clang on Linux and macOS alone"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]


@dataclass
class Mutant:
    """`pattern` becomes `replacement` in `file`, everywhere; `kernels` are compiled; `changes` is what must show."""

    name: str
    file: str
    pattern: str
    replacement: str
    kernels: str
    changes: str  # "numbers": wrong beyond rounding; "bits": right, with other bits; "nothing"

    def apply(self, folder):
        path = folder / self.file
        text, count = re.subn(self.pattern, self.replacement, path.read_text(), flags=re.S)
        assert count, f"nothing in {self.file} matches {self.pattern!r}: say here how the new code is broken"
        path.write_text(text)


HEADER, GRADIENT, SAMPLE = "kernels/nade.hpp", "kernels/nade_gradient.cpp", "kernels/nade_sample.cpp"
CATEGORICAL, ACTIVATION, PANELS = "kernels/categorical.hpp", "kernels/activation.hpp", "kernels/panels.hpp"
DENSE, SPARSE, NETWORK = "kernels/masked_linear.cpp", "kernels/sparse_linear.cpp", "kernels/masked_sample.cpp"
MASKED, SCORER = "kernels/masked.hpp", "kernels/masked_score.cpp"
MIXTURE = "kernels/logistic_mixture.hpp"
TIME, CONV, GATED = "kernels/conv.hpp", "kernels/causal_conv.cpp", "kernels/gated_block.cpp"
EMBEDDING, WAVENET = "kernels/embedding.cpp", "kernels/wavenet_sample.cpp"
NORM, NORM_GRADIENT, GELU = "kernels/layer_norm.hpp", "kernels/layer_norm.cpp", "kernels/gelu.hpp"
DROPOUT, SOFTMAX, ROWS = "kernels/dropout.cpp", "kernels/softmax.cpp", "kernels/softmax.hpp"
ATTENTION, ATTENTION_GRADIENT = "kernels/attention.hpp", "kernels/attention_gradient.cpp"
PACKED, TRANSFORMER = "kernels/packed_linear.hpp", "kernels/transformer.cpp"
STEP, STEPS = "kernels/masked_step.cpp", "masked_step masked_linear optimizer"  # beside the two that it is
MOVED, ONES = "kernels/masked_step.hpp", "kernels/ones.hpp"
SPARSE_STEP, SPARSE_STEPS = "kernels/sparse_step.cpp", "sparse_step sparse_linear optimizer"
PERMUTE, OPTIMIZER, ENCODE = "kernels/permute.cpp", "kernels/optimizer.cpp", "runtime/encode.cpp"
DRAWS = "masked_sample masked_linear bernoulli"  # the sampler beside the scorer it must follow
SCORES = "masked_score encode masked_linear bernoulli"  # the scorer beside the products it is made of
CODES, CODES_GRADIENT = "kernels/nade_categorical.hpp", "kernels/nade_categorical_gradient.cpp"
MUTANTS = [
    # The forward march
    Mutant("the order is dropped", HEADER,
           r"return nade\.order \? nade\.order\[i\] : i;", "return i;", "score", "numbers"),
    Mutant("the flip is dropped", HEADER, r"(bit = x\[r \* ldx \+ k\]) \^ f;", r"\1;", "score", "numbers"),
    Mutant("a move adds V", HEADER,
           r"\*w = nade\.W \+ k \* nade\.ldw;", "*w = nade.V + k * nade.ldv;", "score", "numbers"),
    Mutant("the next row of V is read", HEADER,
           r"dots<R, 1>\(nade, tile, i,", "dots<R, 1>(nade, tile, (i + 1) % nade.n_features,", "score", "numbers"),
    Mutant("a chunk starts one variable late", HEADER,
           r"i % kChunk == 0 && i > 0", "i % kChunk == 1 && i > 1", "score", "bits"),
    Mutant("the dot product is not fused", HEADER,
           r"= fma\(h, vj\[l\], sum\[l\]\[r\]\);", "= h * vj[l] + sum[l][r];", "score", "bits"),
    Mutant("the horizontal sum has another tree", "simd/vec.hpp",
           r"\((\w)\[0\] \+ \1\[2\]\) \+ \(\1\[1\] \+ \1\[3\]\)",
           r"(\1[0] + \1[1]) + (\1[2] + \1[3])", "score", "bits"),
    Mutant("c is added to the chunk, not to the whole sum", HEADER,
           r"\(whole \+ part\) \+ cj\)", "whole + (part + cj))", "score", "bits"),
    Mutant("log p is rounded to float", "kernels/bernoulli.hpp",
           r"return hsum\(sum\);", "return float(hsum(sum));", "score", "bits"),
    # The backward pass
    Mutant("dW is added before the run's share of da", GRADIENT,
           r"(end_of_run\(r\);)(.{0,400}?store_units<N>\(gw,.*?\n)", r"\2\1", "gradient", "numbers"),
    Mutant("dV uses the state after the move", GRADIENT,
           r"h\[r\] = load_units<N>\(history\[r\]\);", "", "gradient", "numbers"),
    Mutant("a checkpoint is one word off", GRADIENT,
           r"\(r \* words \+ word\) \* B", "(r * words + (word ? word - 1 : 0)) * B", "gradient", "numbers"),
    Mutant("the slope is left out", ACTIVATION, r"return fma\(-h, h, h\);", "return h;", "gradient", "numbers"),
    Mutant("a chunk of rows replaces the one before", "kernels/units.hpp",
           r"add \? load_part\(at, lanes\(k\)\) \+ value : value", "value", "gradient", "numbers"),
    Mutant("the weights of rows are ignored", GRADIENT, r"weight \? weight\[row\] : ", "", "gradient", "numbers"),
    # The sampler
    Mutant("a flipped column is drawn unflipped", SAMPLE, r"z\[r\] = f \? -z\[r\] : z\[r\];", "", "sample", "numbers"),
    Mutant("the state moves by the bit, not the encoded one", SAMPLE,
           r"moves \|= unsigned\((.*?) \^ f\)", r"moves |= unsigned(\1)", "sample", "numbers"),
    # Conditionals
    Mutant("the reference's share is left out of the sum", CATEGORICAL,
           r"Real s = row\.zero\[i\];", "Real s = 0;", "categorical", "numbers"),
    Mutant("the largest logit is not taken off", CATEGORICAL,
           r"m = m > z\[k\] \? m : z\[k\];", "m = 0;", "categorical", "numbers"),
    Mutant("values are their own codes", CATEGORICAL,
           r"return value \^ [^;]*;", "return value + 0 * reference;", "categorical", "numbers"),
    Mutant("a draw goes up the codes", CATEGORICAL,
           r"e\[0\] = e\[reference\], e\[reference\] = swapped;", "(void)swapped, (void)reference;",
           "categorical", "numbers"),
    Mutant("an edge belongs to the value below", CATEGORICAL,
           r"!\(target < e\[v\]\)", "(target > e[v])", "categorical", "numbers"),
    Mutant("the sum runs down", CATEGORICAL,
           r"(size_t k = )columns\.first\[i\]; k < columns\.first\[i \+ 1\]; \+\+k\) s \+= row\.e\[k\];",
           r"\1columns.first[i + 1]; k-- > columns.first[i];) s += row.e[k];", "categorical", "bits"),
    Mutant("the value's own one is left out", "kernels/categorical.cpp", r" -= 1;", " -= 0;", "categorical", "numbers"),
    Mutant("the weights of categorical rows are ignored", "kernels/categorical.cpp",
           r"weight \? weight\[r\] : ", "", "categorical", "numbers"),
    Mutant("a bit's error has the other sign", "kernels/bernoulli.cpp",
           r"\(sigmoid\(z\) - bit\)", "(bit - sigmoid(z))", "bernoulli", "numbers"),
    Mutant("the weights of rows of bits are ignored", "kernels/bernoulli.cpp",
           r"weight \? weight\[r\] : ", "", "bernoulli", "numbers"),
    # Mixtures of logistics
    Mutant("the left tail is left out", MIXTURE,
           r"select\(first, value\(-kFar\), (fma.*?delta)\);", r"\1;", "logistic_mixture", "numbers"),
    Mutant("the right tail is left out", MIXTURE,
           r"select\(last, value\(kFar\), (fma.*?delta)\);", r"\1;", "logistic_mixture", "numbers"),
    Mutant("an end has a bin's width", MIXTURE,
           r"select\(end \| narrow, one,", "select(narrow, one,", "logistic_mixture", "numbers"),
    Mutant("a bin is half as wide", MIXTURE, r"width = 2 / last;", "width = 1 / last;", "logistic_mixture", "numbers"),
    Mutant("a mass is a density", MIXTURE,
           r"value\(-80\), -t\)\);(.*?)return \{", r"value(-80), -t));\1return {scale, t}; return {",
           "logistic_mixture", "numbers"),
    Mutant("scales have no floor", MIXTURE,
           r"max\(value\(levels\.floor\), raw\)", "raw", "logistic_mixture", "numbers"),
    Mutant("the floor has a slope", MIXTURE,
           r"select\(raw < value\(levels\.floor\), none, (.*?)\);", r"\1;", "logistic_mixture", "numbers"),
    Mutant("the slope forgets the width", MIXTURE,
           r" - of_width\);", " - none * of_width);", "logistic_mixture", "numbers"),
    Mutant("the prior has no gradient", MIXTURE,
           r"share - at\(kLogit, k\) \* per_prior", "share", "logistic_mixture", "numbers"),
    Mutant("the mean moves the other way", MIXTURE,
           r"\(above_a - below_b\)", "(below_b - above_a)", "logistic_mixture", "numbers"),
    Mutant("a draw takes the lower edge", MIXTURE,
           r"edge = v - middle \+ half", "edge = v - middle - half", "logistic_mixture", "numbers"),
    Mutant("the sum over components runs down", MIXTURE,
           r"for \(size_t k = 0; k < K; \+\+k\) \{(\s+const Values joint)",
           r"for (size_t k = K; k-- > 0;) {\1", "logistic_mixture", "bits"),
    Mutant("the mixtures of other rows weigh the same", "kernels/logistic_mixture.cpp",
           r"weight \? weight\[row\[j\]\] : ", "", "logistic_mixture", "numbers"),
    Mutant("one vector of values at a time", MIXTURE,
           r"kSide = 2;", "kSide = 1;", "logistic_mixture", "nothing"),
    # NADE over categories
    Mutant("every code moves by the first one's row", CODES,
           r"unit = first \+ code\[r\] - 1;", "unit = first;", "nade_categorical_score", "numbers"),
    Mutant("a chunk of units never ends", CODES,
           r"if \(unit >= next\[t\]\[r\]\)", "if (unit > 0xFFFFFFFF)", "nade_categorical_score", "bits"),
    Mutant("dW of a code is the first one's", CODES_GRADIENT,
           r"\(first \+ code - 1\) \* B", "first * B", "nade_categorical_gradient", "numbers"),
    Mutant("a step sees the state after it", CODES_GRADIENT,
           r"h\[r\] -= B;", ";", "nade_categorical_gradient", "numbers"),
    Mutant("a checkpoint forgets its whole chunks", CODES_GRADIENT,
           r"Sums<N> sums = \{load_units<N>\(whole\)", "Sums<N> sums = {each<N>([](int) { return zero<Real>(); })",
           "nade_categorical_gradient", "numbers"),
    Mutant("segments of eight variables", CODES_GRADIENT,
           r"constexpr size_t kSteps = \d+;", "constexpr size_t kSteps = 8;", "nade_categorical_gradient", "nothing"),
    Mutant("tiles march alone", CODES, r"constexpr size_t kGroup = \d+;", "constexpr size_t kGroup = 1;",
           "nade_categorical_score", "nothing"),
    Mutant("a drawn value is its own code", "kernels/nade_categorical_sample.cpp",
           r"uint8_t\(code_of\(value, zero\)\)", "value", "nade_categorical_sample", "numbers"),
    # Masked products
    Mutant("dead weights take part", PANELS,
           r"return words \? words\[k\] & lanes : lanes;", "return lanes + 0 * k;", "masked_linear", "numbers"),
    Mutant("one word of a mask is another's", PANELS,
           r"words\[k\] & lanes : lanes", "words[k ^ (k == 5)] & lanes : lanes", "masked_linear", "numbers"),
    Mutant("the last input of a span is left out", PANELS,
           r"words \? pair\[2 \* i \+ 1\] : whole\[1\]", "pair[2 * i + 1] - 1", "masked_linear", "numbers"),
    Mutant("a chunk replaces the one before", PANELS,
           r"sum = load\(to \+ r \* ldy \+ j\) \+ sum;", "sum = zero<Real>() + sum;", "masked_linear", "numbers"),
    Mutant("a chunk replaces the one before where lanes end", PANELS,
           r"\(first \? zero<Real>\(\) : load_part\(to \+ r \* ldy \+ j, n\)\) \+ ", "", "masked_linear", "numbers"),
    Mutant("every chunk of a stretch is the first", MASKED,
           r"first && chunk == start", "first", "masked_linear", "numbers"),
    Mutant("chunks have 128 terms", "kernels/real.hpp",
           r"kChunk = 256", "kChunk = 128", "masked_linear", "bits"),
    Mutant("the bias comes before the addend", PANELS,
           r"(  if \(f && f->addend\) \{.*?\n  \}\n)(  if \(f && f->b\) .*?\n)", r"\2\1", "masked_linear", "bits"),
    Mutant("the bias comes before the addend where lanes end", PANELS,
           r"(  if \(f\.addend\) [^;]*;\n)(  if \(f\.b\) [^;]*;\n)", r"\2\1", "masked_linear", "bits"),
    Mutant("a product is not fused", PANELS,
           r"fma\(ar, bk\[v\], tile\.v\[r\]\[v\]\)", "ar * bk[v] + tile.v[r][v]", "masked_linear", "bits"),
    Mutant("the slope is left out of the input's gradient", PANELS,
           r"return sum \* activation_slope<CHAINRULE_SIGMOID>\(h\)", "return sum", "masked_linear", "numbers"),
    Mutant("the transposed copy is not masked", PANELS,
           r"store\(to, load_live\(to, live >> j\)\);", "(void)to, (void)live;", "masked_linear", "numbers"),
    Mutant("dead entries of a gradient are written", PANELS,
           r"live = spans\.word\(k \+ size_t\(r\)\);", "live = spans.lanes;", "masked_linear", "numbers"),
    Mutant("a chunk of rows replaces the gradient before", PANELS,
           r"\(first \? zero<Real>\(\) : load_live\(to_row, live >> j\)\) \+ tile", "tile", "masked_linear", "numbers"),
    Mutant("the bias's gradient is that of the last chunk", PANELS,
           r"first \? zero<Real>\(\) \+ sum : load_part\([^;]*?\) \+ sum", "sum", "masked_linear", "numbers"),
    Mutant("dead ones are added", MASKED,
           r"spans\[p\]\.word\(index\[at\]\)\);", "spans[p].lanes);", "sparse_linear", "numbers"),
    Mutant("panels side by side have one gradient", ONES,
           r"row \+ size_t\(p\) \* kPanel\);", "row + 0 * p);", "sparse_linear", "numbers"),
    Mutant("a unit has the ones of the next", SPARSE,
           r"from\[k\], from\[k \+ 1\]\);", "from[k + 1], from[k + 2]);", "sparse_linear", "numbers"),
    Mutant("ones before the first span are added", MASKED,
           r"uint32_t\(low \? .*?: 0\);", "0;", "sparse_linear", "numbers"),
    Mutant("a one belongs to the row before", ONES,
           r"\+\+\] = uint32_t\(r\);", "++] = uint32_t(r - (r > 0));", "sparse_linear", "numbers"),
    # Matrices that several masks share
    Mutant("rows stand in place", PANELS,
           r"return w\.rows \? w\.rows\[k\] : k;", "return k + 0 * w.n_in;", "masked_linear", "numbers"),
    Mutant("dead weights keep their gradient", PANELS,
           r"whole && live != spans\.lanes", "!whole && live != spans.lanes", "masked_linear", "numbers"),
    Mutant("inputs without a live weight keep their gradient", PANELS,
           r"if \(whole\) clear_gaps", "if (whole && rows == 0) clear_gaps", "masked_linear", "numbers"),
    Mutant("a turned matrix's bias is that of its first panel", DENSE,
           r"\(dy \+ start \* lddy \+ low,", "(dy + start * lddy,", "masked_linear", "numbers"),
    Mutant("columns are not permuted", PERMUTE,
           r"columns \+ size_t\(place\[j \+ i\]\)", "columns + size_t(j + i)", "permute", "numbers"),
    Mutant("columns come back where they were", PERMUTE,
           r"place\[back \? columns\[j\] : j\] = back \? uint32_t\(j\) :", "place[j] =", "permute", "numbers"),
    Mutant("dead weights come back", PERMUTE, r"live \? some\.word\(panel, k\) : kAll", "kAll", "permute", "numbers"),
    # A step by a product
    Mutant("dead weights move", STEP,
           r"spans\.word\(k \+ size_t\(r\)\),", "spans.lanes,", STEPS, "numbers"),
    Mutant("dead weights of ones move", SPARSE_STEP, r"any \|= live\[p\] = spans\[p\]\.word\(k\)",
           "any |= live[p] = spans[p].lanes", SPARSE_STEPS, "numbers"),
    Mutant("the step's chunk of rows replaces those before", STEP,
           r"store\(whole, load\(whole\) \+ sum\);", "store(whole, sum);", STEPS, "numbers"),
    Mutant("a row of the panel moves the next", STEP,
           r"at \+ \(k \+ size_t\(r\)\)", "at + (k + size_t(r ? r - 1 : r))", STEPS, "numbers"),
    Mutant("a piece of the step's rows is lost", STEP,
           r"rows \* \(q \+ 1\) / kPieces;", "rows * (q + 1) / kPieces - (q == 1);", STEPS, "numbers"),
    Mutant("the step's biases are those of its last rows", STEP,
           r"rows, lanes, start == 0, db", "rows, lanes, true, db", STEPS, "numbers"),
    Mutant("the columns of a row move by its first", MOVED,
           r"g\(j\), \[i\]\(const", "g(0 * j), [i](const", STEPS, "numbers"),
    Mutant("a unit moves by the ones of its first chunk of rows", SPARSE_STEP,
           r"sum\[p\]\.v\[v\] \+ part\[p\]\.v\[v\]", "start ? sum[p].v[v] : part[p].v[v]",
           SPARSE_STEPS, "numbers"),
    Mutant("a chunk of rows begins where the unit does", SPARSE_STEP,
           r"      at = end;\n", "", SPARSE_STEPS, "numbers"),
    Mutant("a unit moves the next", SPARSE_STEP,
           r"\+ k \* kPanel, live", "+ (k + (k + 1 < w.n_in)) * kPanel, live", SPARSE_STEPS, "numbers"),
    Mutant("the second panel moves by the first", SPARSE_STEP,
           r"return sum\[p\]", "return sum[0 * p]", SPARSE_STEPS, "numbers"),
    Mutant("the sparse step's biases are those of its last rows", SPARSE_STEP,
           r"spans, start == 0, db", "spans, true, db", SPARSE_STEPS, "numbers"),
    # The masked sampler
    Mutant("the sampler's first chunk has one input more", NETWORK,
           r"p\.next\[r\] = kChunk;", "p.next[r] = kChunk + 1;", DRAWS, "numbers"),
    Mutant("a unit goes to its own layer's panel", NETWORK,
           r"s\.hidden\[l \+ 1\] : s\.output", "s.hidden[l] : s.output", DRAWS, "numbers"),
    Mutant("the sampler's bias comes before the addend", NETWORK,
           r"add_addend\(s, layer, u, a\);(\s*)add_bias\(s, layer, u, a\);",
           r"add_bias(s, layer, u, a);\1add_addend(s, layer, u, a);", DRAWS, "numbers"),
    Mutant("a panel opens without its last unit", NETWORK,
           r"smaller\(start \+ kChunk, known\)", "smaller(start + kChunk, known - 1)", DRAWS, "numbers"),
    Mutant("a unit is computed one step early", NETWORK,
           r"layer\.ready\[u\] <= i", "layer.ready[u] <= i + 1", DRAWS, "numbers"),
    Mutant("the direct part is added to the bias first", NETWORK,
           r"(else if \(s\.net\.direct\.W \|\| .*?\n.*?\n)(  add_bias\(s, s\.net\.output, u, z\);\n)",
           r"else { add_bias(s, s.net.output, u, z); for (size_t r = 0; r < s.rows; ++r) z[r] += direct[r]; }\n",
           DRAWS, "numbers"),
    # The masked scorer
    Mutant("a residual layer is only its own", SCORER, r"if \(layer\.residual\) add_panel", "if (false) add_panel",
           SCORES, "numbers"),
    Mutant("a tile is scored by the first one's codes", SCORER,
           r"at\.x \+ at\.begin \* at\.ldx", "at.x", SCORES, "numbers"),
    Mutant("a tile has the first one's addends", SCORER,
           r"layer\.addend \+ at\.begin \* layer\.lda", "layer.addend", SCORES, "numbers"),
    Mutant("the direct weights' part gets the bias too", SCORER,
           r"part\.b = nullptr;", "(void)part;", SCORES, "numbers"),
    Mutant("gaps keep what was copied before", MASKED, r"clear_row\(to \+ [^;]*;", ";", SCORES, "numbers"),
    Mutant("the masked copy begins a row late", MASKED,
           r"index\[at\] - copied\)", "index[at] - copied + 1)", SCORES, "numbers"),
    Mutant("a panel's sums begin anew", SCORER,
           r"sum = load\(b\.sums \+ r \* width\);", "sum = zero<double>();", SCORES, "numbers"),
    Mutant("tiles of 96 rows", SCORER, r"copies \? 384 : 192", "copies ? 384 : 96", SCORES, "nothing"),
    # Activations in time
    Mutant("taps between are the oldest", CONV,
           r"\+ k \* conv->dilation\)", "+ (k + 1 < conv->width ? 0 : k) * conv->dilation)", "causal_conv", "numbers"),
    Mutant("a tap has no gradient", TIME, r"else if \(ends > low\)", "else if (ends > low && k != 1)",
           "causal_conv", "numbers"),
    Mutant("the weights of every tap see the first one's steps", CONV,
           r"\(t \+ tap \* conv->dilation\)", "t", "causal_conv", "numbers"),
    Mutant("the taps are summed from the newest", TIME,
           r"for \(size_t s = 0; s < count; \+\+s\) \{(\s+const Segment)",
           r"for (size_t s = count; s-- > 0;) {\1", "causal_conv", "bits"),
    Mutant("a chunk of inputs replaces the one before", TIME,
           r"sum = load\(whole \+ r \* kLanes \+ j\) \+ sum;", ";", "causal_conv", "numbers"),
    Mutant("only two chunks of inputs are summed", TIME,
           r"put\(tile, k == kChunk,", "put(tile, true,", "causal_conv", "numbers"),
    Mutant("both halves are filters", TIME,
           r"sigmoid\(load<Real, 2>\(z\.half\[1\] \+ j\)\)", "tanh(load<Real, 2>(z.half[1] + j))",
           "gated_block", "numbers"),
    Mutant("the sum of skips is the last one", GATED, r"first \? nullptr : to,", "nullptr,", "gated_block", "numbers"),
    Mutant("the residual is an earlier step", GATED,
           r"from \+ at \+ s\.history\)", "from + at)", "gated_block", "numbers"),
    Mutant("the context comes after the bias", TIME,
           r"load\(context\(r\) \+ lane \+ j\)(.*?)load\(b \+ lane \+ j\)",
           r"load(b + lane + j)\1load((context(0) ? context(r) : b) + lane + j)", "gated_block", "bits"),
    Mutant("steps before the start exist", GATED,
           r"absent = start \? [^;]* : 0;", "absent = 0;", "gated_block", "numbers"),
    Mutant("a chunk's sums replace those before", GATED,
           r"put\(tile, whole, nullptr, k,", "put(tile, true, nullptr, k,", "gated_block", "numbers"),
    Mutant("what only later steps saw has no gradient", GATED,
           r"if \(dx && s\.history\)", "if (dx && !s.history)", "gated_block", "numbers"),
    Mutant("the gate's slope is the filter's", GATED,
           r"fma\(-fg, g, fg\)", "fma(-fg, f, fg)", "gated_block", "numbers"),
    Mutant("skips have no gradient", GATED,
           r"if \(skipped\) segments", "if (skipped && !count) segments", "gated_block", "numbers"),
    Mutant("a frame's last step is left out", GATED,
           r"dframes->hop - dframes->phase, n_steps", "dframes->hop - dframes->phase - 1, n_steps",
           "gated_block", "numbers"),
    Mutant("dz is summed before the skips", GATED,
           r"(if \(dy\) segments\[count\+\+\] = [^;]*;)(\s+)(if \(skipped\) segments\[count\+\+\] = [^;]*;)",
           r"\3\2\1", "gated_block", "bits"),
    Mutant("no value is the first value", EMBEDDING,
           r"index\[r\] < 0 \? zero<Real>\(\) : row", "row", "embedding", "numbers"),
    Mutant("a chunk's sums are added twice", EMBEDDING, r"store\(sum, zero<Real>\(\)\);", ";", "embedding", "numbers"),
    Mutant("a turned table is read straight", EMBEDDING,
           r"if \(!turned\) return load", "return load", "embedding", "numbers"),
    # Layers of Transformers
    Mutant("epsilon is left out", NORM,
           r"/ Real\(n\) \+ epsilon\)", "/ Real(n) + 0 * epsilon)", "layer_norm", "numbers"),
    Mutant("the mean is not taken off the squares", NORM,
           r"load_lanes\(x \+ k, lanes\) - set1\(mean\), lanes\)", "load_lanes(x + k, lanes), lanes)",
           "layer_norm", "numbers"),
    Mutant("lanes beyond a row have a part in its variance", NORM,
           r"n == int\(kWidth\) \? v : select", "true ? v : select", "layer_norm", "numbers"),
    Mutant("the squares are not fused", NORM, r"= fma\(d, d, squares\);", "= d * d + squares;", "layer_norm", "bits"),
    Mutant("the gain's gradient is not fused", NORM_GRADIENT,
           r"= fma\(d, h, to_gain\);", "= d * h + to_gain;", "layer_norm", "bits"),
    Mutant("the slope along a row is left out", NORM_GRADIENT,
           r"fma\(h, slope\[i\], g - mean\[i\]\)", "g - mean[i]", "layer_norm", "numbers"),
    Mutant("the gradient past a norm is left out", NORM_GRADIENT,
           r"addend \? fma\(.*?\) : r \* d", "r * d", "layer_norm", "numbers"),
    Mutant("chunks of rows replace one another", NORM_GRADIENT,
           r"to_bias = to_bias \+ load\(sums", "to_bias = load(sums", "layer_norm", "numbers"),
    Mutant("GELU's cubic term is another", GELU, r"0\.07135481627260025", "0.07", "gelu", "numbers"),
    Mutant("GELU's slope forgets the argument's", GELU,
           r"return fma\(x \* fma\(.*?\), s\);", "return s;", "gelu", "numbers"),
    Mutant("the normal density is another", GELU, r"Real\(-0\.5\)", "Real(-0.25)", "gelu", "numbers"),
    Mutant("the counter starts at 0", DROPOUT, r"first_block \+ k \+ 1", "first_block + k", "dropout", "numbers"),
    Mutant("the last word comes first", DROPOUT, r"4 \* j, &block", "4 * (3 - j), &block", "dropout", "numbers"),
    Mutant("Philox has nine rounds", "runtime/philox.hpp", r"round < 10", "round < 9", "dropout", "numbers"),
    Mutant("a choice at the limit is dropped", DROPOUT,
           r"load\(choice \+ i\) < limit", "load(choice + i) <= limit", "dropout", "numbers"),
    Mutant("what is left is not scaled", DROPOUT,
           r"lanes\) \* scale;", "lanes) + (scale - scale);", "dropout", "numbers"),
    # The softmax over a vocabulary
    Mutant("a part of a vector is filled with zeros", ROWS,
           r"size_t\(lanes\), -infinity<Real>", "size_t(lanes), 0", "softmax", "numbers"),
    Mutant("the largest logit of a row is not taken off", ROWS,
           r"top - top == 0 \? top : 0", "0 * top", "softmax", "numbers"),
    Mutant("two vectors of a row change places", ROWS,
           r"sum = sum \+ e;(\s+)sum = sum \+ f;", r"sum = sum + f;\1sum = sum + e;", "softmax", "bits"),
    Mutant("the target's one is left out", SOFTMAX, r"d\[t\] -= w;", "(void)t;", "softmax", "numbers"),
    Mutant("the weights of tokens are ignored", SOFTMAX, r"weight \? weight\[r \+ k\] : ", "", "softmax", "numbers"),
    Mutant("the temperature multiplies", SOFTMAX,
           r"const double inverse = 1 / temperature;", "const double inverse = temperature;", "softmax", "numbers"),
    Mutant("the crossing token is left out", SOFTMAX,
           r"\(need - limit\.above \+ each - 1\) / each", "(need - limit.above) / each", "softmax", "numbers"),
    Mutant("one token less than k stays", SOFTMAX,
           r"k - limit\.above, room", "k - limit.above - 1, room", "softmax", "numbers"),
    Mutant("of equals the later ones stay", SOFTMAX, r"if \(tie && !ties\) continue;(\s+)ties -= tie;",
           r"if (tie && ties) { --ties; continue; }", "softmax", "numbers"),
    Mutant("masses are in coarse units", SOFTMAX, r"0x1p40", "0x1p3", "softmax", "numbers"),
    Mutant("what is above leaves the window twice", SOFTMAX,
           r"gone = enough \? gone : above;", "gone = above;", "softmax", "numbers"),
    Mutant("blocks before the drawn one have no mass", SOFTMAX,
           r"double sum = sums\[block\];", "double sum = 0;", "softmax", "numbers"),
    Mutant("an edge belongs to the token below", SOFTMAX,
           r"target < sum\) return", "target <= sum) return", "softmax", "numbers"),
    # Attention
    Mutant("queries see the key after them", ATTENTION,
           r"return first \+ query \* more;", "return first + (query + 1) * more;", "attention", "numbers"),
    Mutant("keys that are not seen take part", ATTENTION,
           r"for \(size_t j = sees\.[^;]*; j < columns; \+\+j\) s\[j\] = -infinity<Real>;", "", "attention", "numbers"),
    Mutant("a panel of keys is another's", ATTENTION,
           r"from \+ p \* d \* kPanel", "from + p / 2 * d * kPanel", "attention", "numbers"),
    Mutant("scores are not scaled", ATTENTION, r"sum \* set1\(kept\.scale\)", "sum", "attention", "numbers"),
    Mutant("a chunk's values are not rescaled", ATTENTION,
           r"fma\(load\(to\), set1\(change\[r\]\), tile\.v\[r\]\[v\]\)", "load(to) + tile.v[r][v]",
           "attention", "numbers"),
    Mutant("a chunk's sum is not rescaled", ATTENTION,
           r"fma\(set1\(l\[r\]\), set1\(change\[r\]\), set1\(hsum\(sum\)\)\)", "(set1(l[r]) + set1(hsum(sum)))",
           "attention", "numbers"),
    Mutant("every chunk has its own maximum", ATTENTION,
           r"Vec<Real> top = set1\(m\[r\]\);", "Vec<Real> top = set1(-infinity<Real>);", "attention", "bits"),
    Mutant("two vectors of a sum over keys are added first", ATTENTION,
           r"sum = sum \+ load\(s \+ j\);\s+sum = sum \+ load\(s \+ j \+ kWidth\);",
           "sum = sum + (load(s + j) + load(s + j + kWidth));", "attention", "bits"),
    Mutant("the last keys of a tile come first", ATTENTION,
           r"(  multiply<R, false>\(tile, weights, kChunk, b, ldb, common\);\n)(.*?)\n\}", r"\2\n\1}",
           "attention", "bits"),
    Mutant("the last keys of a tile are not fused", ATTENTION,
           r"= fma\((set1\(weights\[[^]]*\]\)), (load\([^;]*?\)), (tile[^;]*?)\);", r"= \1 * \2 + \3;",
           "attention", "bits"),
    Mutant("the log-sum forgets the maximum", ATTENTION, r"m\[r\] \+ lanes\[0\]", "lanes[0]", "attention", "numbers"),
    Mutant("chunks of 128 keys", "kernels/real.hpp", r"kChunk = 256", "kChunk = 128", "attention", "bits"),
    Mutant("heads of queries share the first head of keys", "kernels/attention.cpp",
           r"k->row \+ kept_head \* d", "k->row", "attention", "numbers"),
    Mutant("lengths are those of the first sequence", "kernels/attention.cpp",
           r"lengths \? lengths\[row\] : n_keys", "lengths ? lengths[0] : n_keys", "attention", "numbers"),
    Mutant("a key is kept one step on", ATTENTION,
           r"kPanel \+ at % kPanel\] = key", "kPanel + (at + 1) % kPanel] = key", "attention", "numbers"),
    Mutant("a value is kept one step on", ATTENTION,
           r"store\(values \+ at \* ldv", "store(values + (at + 1) * ldv", "attention", "numbers"),
    Mutant("new steps see what comes after them", ATTENTION,
           r"attention\.causal \? 1 : n_steps", "attention.causal ? 2 : n_steps", "attention", "numbers"),
    Mutant("a sequence keeps its keys in the first one's place", ATTENTION,
           r"cache\.keys \+ piece \*", "cache.keys + kept_head *", "attention", "numbers"),
    # Its gradients
    Mutant("what the sum of probabilities gives up is left out", ATTENTION_GRADIENT,
           r"\(sum - set1\(block\.D\[row \+ size_t\(r\)\]\)\) \* ", "sum * ", "attention_gradient", "numbers"),
    Mutant("the gradient of scores is not scaled", ATTENTION_GRADIENT,
           r"\]\)\) \* set1\(head\.scale\)\);", "])));", "attention_gradient", "numbers"),
    Mutant("probabilities are those of other scores", ATTENTION_GRADIENT,
           r"fma\(sum, set1\(head\.scale\), ", "(sum + ", "attention_gradient", "numbers"),
    Mutant("log-sums are those of the block's first query", ATTENTION_GRADIENT,
           r"-block\.log_sum\[row \+ size_t\(r\)\]", "-block.log_sum[row]", "attention_gradient", "numbers"),
    Mutant("a block sees one key less", ATTENTION_GRADIENT,
           r"n \+ first \+ 1 - n_queries", "n + first - n_queries", "attention_gradient", "numbers"),
    Mutant("log-sums start with the block", ATTENTION_GRADIENT,
           r"\* n_queries \+ first;", "* n_queries + begin;", "attention_gradient", "numbers"),
    Mutant("the first queries that see a key are left out", ATTENTION_GRADIENT,
           r"for \(size_t i = from; i < all; \+\+i\)", "for (size_t i = from; i < from; ++i)",
           "attention_gradient", "numbers"),
    Mutant("a query has a part in the key after its last", ATTENTION_GRADIENT,
           r"if \(size_t\(r\) < seen\)", "if (size_t(r) <= seen)", "attention_gradient", "numbers"),
    Mutant("values have the gradient of scores", ATTENTION_GRADIENT,
           r"block\.P, block\.dy,", "block.dS, block.dy,", "attention_gradient", "numbers"),
    Mutant("a block's or chunk's sum replaces the one before", ATTENTION_GRADIENT,
           r"load\(to\) \+ tile\.v", "tile.v", "attention_gradient", "numbers"),
    Mutant("blocks of 64 queries", ATTENTION_GRADIENT, r"kBlock = 128;", "kBlock = 64;", "attention_gradient", "bits"),
    Mutant("queries before the first key keep what was there", ATTENTION_GRADIENT,
           r"t < first; \+\+t\)", "t < begin; ++t)", "attention_gradient", "numbers"),
    # Products with packed weights, and a Transformer's step
    Mutant("a chunk of weights replaces the one before", PACKED,
           r"put\(tile, chunk == 0,", "put(tile, true,", "transformer", "numbers"),
    Mutant("every chunk has the first one's scale", PACKED,
           r"\(panel \* chunks \+ chunk\) \* kPanel", "panel * chunks * kPanel", "transformer", "numbers"),
    Mutant("the bias comes before what is added", PACKED,
           r"(\s+if \(addend\) [^;]*;)(\s+if \(w\.b\) [^;]*;)", r"\2\1", "transformer", "bits"),
    Mutant("what is added to rows is left out", PACKED,
           r"f = \{addend, lda,", "f = {nullptr, lda,", "transformer", "numbers"),
    Mutant("rows have no activation", PACKED,
           r"activation == CHAINRULE_IDENTITY\) continue;", "activation >= -9) continue;", "transformer", "numbers"),
    Mutant("packed products are not fused", PACKED,
           r"fma\(ar, w\[v\], tile\.v\[r\]\[v\]\)", "ar * w[v] + tile.v[r][v]", "transformer", "bits"),
    Mutant("panels of a row have the first one's scale", PACKED,
           r"\(\(panel \+ size_t\(p\)\) \* chunks \+ chunk\)", "(panel * chunks + chunk)", "transformer", "numbers"),
    Mutant("chunks of a row have the first one's scale", PACKED,
           r"\(\(panel \+ size_t\(p\)\) \* chunks \+ chunk\)", "((panel + size_t(p)) * chunks)",
           "transformer", "numbers"),
    Mutant("panels of a row are all the first one", PACKED,
           r"\(size_t\(p\) \* w\.n_in \+ k\) \* kPanel", "k * kPanel", "transformer", "numbers"),
    Mutant("a row's chunk of weights replaces the one before", PACKED,
           r"sum\[p\]\[v\] = sum\[p\]\[v\] \+ part\[p\]\[v\];", "sum[p][v] = part[p][v];", "transformer", "numbers"),
    Mutant("what is added to a row is left out", PACKED,
           r"if \(addend\) sum\[p\]\[v\] = [^;]*;", "", "transformer", "numbers"),
    Mutant("a row has no activation", PACKED,
           r"activate_hidden\(activation, sum\[p\]\[v\]\)", "sum[p][v]", "transformer", "numbers"),
    Mutant("products of a row are not fused", PACKED,
           r"= fma\((xk), (load_weights<Format>\(.*?\)), (part\[p\]\[v\])\);", r"= \1 * \2 + \3;",
           "transformer", "bits"),
    Mutant("bf16 has one bit of exponent less", "simd/narrow.hpp",
           r"(_slli_epi32\(wide|vshll_n_u16\(vld1_u16\(p\)), 16\)", r"\1, 15)", "transformer", "numbers"),
    Mutant("every prompt starts at position 0", TRANSFORMER,
           r"\(lengths\[r\] \+ t\) \* width", "t * width", "transformer", "numbers"),
    Mutant("no token is the first token", TRANSFORMER,
           r"value < 0 \? Real\(0\) : token_at\(network->token, size_t\(value\), c\)",
           "token_at(network->token, size_t(value < 0 ? 0 : value), c)", "transformer", "numbers"),
    Mutant("a token's numbers have the first chunk's scale", TRANSFORMER, r"\+ c / kChunk\)", ")",
           "transformer", "numbers"),
    Mutant("the first token is taken for the last", TRANSFORMER,
           r"r \* call\.n_steps \+ last\[r\]", "r * call.n_steps", "transformer", "numbers"),
    Mutant("the last token's residual stays behind", TRANSFORMER,
           r"for \(size_t c = 0; c < width; \+\+c\) a\.x\[r \* width \+ c\] = [^;]*;", ";", "transformer", "numbers"),
    Mutant("the residual is dropped", TRANSFORMER,
           r"f, ld, a\.x, CHAINRULE_IDENTITY", "f, ld, nullptr, CHAINRULE_IDENTITY",
           "transformer", "numbers"),
    Mutant("sublayers see what is not normed", TRANSFORMER,
           r"seen = call\.network\.post_norm \? a\.x : a\.h;", "seen = a.x;", "transformer", "numbers"),
    Mutant("norms come before, always", TRANSFORMER,
           r"call\.network\.post_norm \? norm\(call, tokens, a\.x, gain, bias, a\.x\) : CHAINRULE_OK",
           "CHAINRULE_OK", "transformer", "numbers"),
    Mutant("keys and values change places", TRANSFORMER,
           r"k = \{queries \+ heads, (.*?)v = \{queries \+ heads \+ kept,",
           r"k = {queries + heads + kept, \1v = {queries + heads,", "transformer", "numbers"),
    Mutant("cross-attention sees as much as was kept", TRANSFORMER,
           r"tokens / call\.n_rows, cross_lengths", "tokens / call.n_rows, call.lengths", "transformer", "numbers"),
    Mutant("cross-attention has the first norm", TRANSFORMER,
           r"normed\(call, tokens, block\.cross_norm_gain, block\.cross_norm_bias",
           "normed(call, tokens, block.norm_gain, block.norm_bias", "transformer", "numbers"),
    Mutant("all blocks share a cache", TRANSFORMER,
           r"network->blocks\[b\], caches\[b\]", "network->blocks[b], caches[0]",
           "transformer", "numbers"),
    # The generator
    Mutant("a ring is read one place on", WAVENET,
           r"\(when \+ k \* block\.dilation\) % history", "(when + 1 + k * block.dilation) % history",
           "wavenet_sample", "numbers"),
    Mutant("a ring is written one place on", WAVENET,
           r"size_t\(t % history\) \* slot", "size_t((t + 1) % history) * slot", "wavenet_sample", "numbers"),
    Mutant("the gate is the filter's half", WAVENET,
           r"load\(gates\.at\(r, kHalf \+ j\)\)", "load(gates.at(r, j))", "wavenet_sample", "numbers"),
    Mutant("products ahead belong to the next step", WAVENET,
           r"1, stride, begun,", "1, stride, ahead + ((t % steps) ^ 1) * size.z,",
           "wavenet_sample", "numbers"),
    Mutant("the second panel of a pair is the first one", WAVENET,
           r"i < n \? p \+ i : p\)", "p)", "wavenet_sample", "numbers"),
    Mutant("streams of a tile share the first one's context", WAVENET,
           r"f\.addend \+ \(first \+ r\) \* f\.lda", "f.addend + first * f.lda", "wavenet_sample", "numbers"),
    Mutant("a call in mid-stride finds nothing ahead", WAVENET,
           r"t % steps == 0 \|\| step == 0", "t % steps == 0", "wavenet_sample", "numbers"),
    Mutant("the first skip is left out", WAVENET, r"l \? skip :", "l > 1 ? skip :", "wavenet_sample", "numbers"),
    Mutant("the past and the present are two sums", WAVENET,
           r"begun \? load\(begun \+ i \* kWidth\) : (zero<Real>\(\);.*?first \? )zero<Real>\(\)",
           r"\1(begun ? load(begun + i * kWidth) : zero<Real>())", "wavenet_sample", "bits"),
    # Its levels, drawn from mixtures of logistics
    Mutant("a level is on [0, 1]", WAVENET,
           r"\(2 \* double\(value\) - last\) / last", "double(value) / last", "wavenet_sample", "numbers"),
    Mutant("a level's weights have no bias", WAVENET,
           r" \+ load_part\(net\.input_bias \+ j, [^;]*;", ";", "wavenet_sample", "numbers"),
    Mutant("all streams have the first one's mixture", WAVENET,
           r"parameters \+ \(j < s\.rows \? j : 0\) \* ld, tile", "parameters + 0 * ld, tile",
           "wavenet_sample", "numbers"),
    Mutant("all streams have the first one's uniform", WAVENET,
           r"u\[j\] = uniform\(j < s\.rows \? j : 0\);", "u[j] = uniform(0);", "wavenet_sample", "numbers"),
    Mutant("the temperature leaves scales alone", WAVENET,
           r"z\[k\] \+= Real\(log_temperature\[0\]\);", ";", "wavenet_sample", "numbers"),
    Mutant("the temperature divides means and scales", WAVENET,
           r"k < \(K \? K : net\.n_parameters\)", "k < net.n_parameters", "wavenet_sample", "numbers"),
    Mutant("the generator's scales have no floor", WAVENET,
           r"net\.log_scale_min\}", "net.log_scale_min - 100}", "wavenet_sample", "numbers"),
    # Integers and the optimizer
    Mutant("a reference is not exchanged", ENCODE,
           r"\(value\[k\] == zero\[k\]\) \| \(value\[k\] == 0\) \?", "value[k] == 0 ?", "encode", "numbers"),
    Mutant("a unit is numbered by its value", ENCODE,
           r"\+ code\[unit\[k\]\] - 1;", "+ code[unit[k]];", "encode", "numbers"),
    Mutant("a live range has one element more", OPTIMIZER,
           r"first \+ from, first \+ to,", "first + from, first + to + 1,", "optimizer", "numbers"),
    Mutant("a live range has one element less", OPTIMIZER,
           r"first \+ from, first \+ to,", "first + from + 1, first + to,", "optimizer", "numbers"),
    # Blocking, which is free
    Mutant("tiles of 32 steps", TIME, r"kSteps = 96;", "kSteps = 32;", "gated_block", "nothing"),
    Mutant("windows of one chunk", GATED, r"kWindow = 24;", "kWindow = 1;", "gated_block", "nothing"),
    Mutant("rows one by one", NORM_GRADIENT,
           r"r \+ 2 <= end; r \+= 2(.*?)<2>", r"r < end; ++r\1<1>", "layer_norm", "nothing"),
    Mutant("blocks of 64 tokens", SOFTMAX, r"kBlock = 256;", "kBlock = 64;", "softmax", "nothing"),
    Mutant("logits are halved by place alone", SOFTMAX,
           r"bool by_value = true", "bool by_value = false", "softmax", "nothing"),
    Mutant("two steps ahead", WAVENET, r"kStepsAhead = \d+;", "kStepsAhead = 2;", "wavenet_sample", "nothing"),
    Mutant("panels one by one", WAVENET, r"kGroup = [^;]*;", "kGroup = 1;", "wavenet_sample", "nothing"),
    Mutant("panels of a row one by one", PACKED,
           r"begin \+ 2 <= end; begin \+= 2\) packed_row<2,", "begin < end; ++begin) packed_row<1,",
           "transformer", "nothing"),
    Mutant("tiles of two queries", PANELS, r"constexpr int kR = [^;]*;", "constexpr int kR = 2;",
           "attention attention_gradient transformer", "nothing"),
    Mutant("queries are cut finely", "kernels/attention.cpp", r"blocks_beside\(pieces, tiles, most\)", "tiles",
           "attention", "nothing"),
    Mutant("tiles of four rows", PANELS,
           r"constexpr int kR = [^;]*;", "constexpr int kR = 4;", DRAWS, "nothing"),
    Mutant("sums of ones, panel by panel", ONES,
           r"panels >= 4 \* size_t\(threads\) \? 2 : 1", "1 + 0 * panels * size_t(threads)",
           "sparse_linear", "nothing"),
    Mutant("stretches of one chunk", MASKED,
           r"kStretch = 4 \* kChunk;", "kStretch = kChunk;", "masked_linear", "nothing"),
    Mutant("panels in their own order", PANELS,
           r"return n - 1 - rank;", "return i + 0 * rank;", "masked_linear", "nothing"),
    Mutant("bits go one vector at a time", "kernels/bernoulli.hpp",
           r"i \+ 2 \* kWidth <= n_features", "i > n_features", "bernoulli", "nothing"),
    Mutant("two rows march together", HEADER,
           r"constexpr int kTile = [^;]*;", "constexpr int kTile = 2;", "score sample", "nothing"),
    Mutant("checkpoints serve eight rows", GRADIENT,
           r"constexpr size_t kRows = \d+;", "constexpr size_t kRows = 8;", "gradient", "nothing"),
    Mutant("blocks of two vectors of units", "kernels/units.hpp",
           r"constexpr int kMaxBlock = [^;]*;", "constexpr int kMaxBlock = 2;", "gradient", "nothing"),
]  # fmt: skip
# No mutant but a shortcut: two activations fewer take half the time to compile.
SIGMOID_ALONE = Mutant(
    "", "kernels/activation.hpp", r"if \(activation == CHAINRULE_(RELU|TANH)\) return [^;]*;", "", "", "nothing"
)


def compile_and_run(sources, folder, kernels, objects):
    """Exit status and output of the checker with the kernels in `sources`."""
    run = {"check": False, "capture_output": True, "text": True}
    # Low tiles compile twice as fast as high ones, and their bits are the same.
    defines = [f"-DCHAINRULE_ISA={ISA}", "-DCHAINRULE_PRECISION=32", "-DCHAINRULE_TILE_ROWS=3"]
    for kernel in kernels.split():
        arithmetic = ["-O0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
        file = f"kernels/nade_{kernel}" if kernel in ("score", "gradient", "sample") else f"kernels/{kernel}"
        file = "runtime/encode" if kernel == "encode" else file
        source, target = sources / f"{file}.cpp", folder / f"{kernel}.o"
        compiler = subprocess.run(
            [
                COMPILER,
                "-std=gnu++20",
                *arithmetic,
                *FLAGS,
                *defines,
                f"-I{sources}/include",
                "-c",
                source,
                "-o",
                target,
            ],
            **run,
        )
        assert compiler.returncode == 0, compiler.stderr
        objects = [*objects, target]
    linker = subprocess.run([COMPILER, *objects, "-pthread", "-o", folder / "check"], **run)
    assert linker.returncode == 0, linker.stderr
    check = subprocess.run([folder / "check"], timeout=60, **run)
    return check.returncode, check.stdout


def compile_check(source, target):
    """The checks of a family, for all mutants."""
    arguments = ["-std=gnu++20", "-O1", f"-DCHAINRULE_ISA={ISA}", f"-I{SOURCE}/include", "-c", source, "-o", target]
    subprocess.run([COMPILER, *arguments], check=True)
    return target


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, request):
    """A function from a mutant to what the checks say of the whole kernels and of it; two compilers run at a time."""
    folder = tmp_path_factory.mktemp("mutation")
    mutants = [item.callspec.params["mutant"] for item in request.session.items if item.path == Path(__file__)]

    def make(mutant, kernels):
        place = folder / re.sub(r"\W+", "-", mutant.name if mutant else f"whole {kernels}")
        shutil.copytree(SOURCE, place / "cpp", ignore=shutil.ignore_patterns("digest"))
        if "wavenet" not in kernels:  # whose generator has a ReLU
            SIGMOID_ALONE.apply(place / "cpp")
        if mutant:
            mutant.apply(place / "cpp")
        return compile_and_run(place / "cpp", place, kernels, [check.result() for check in checks])

    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        sources = [*sorted(TESTS.glob("mutation/*.cpp")), SOURCE / "runtime/parallel.cpp"]
        checks = [pool.submit(compile_check, source, folder / f"{source.stem}.o") for source in sources]
        whole = {kernels: pool.submit(make, None, kernels) for kernels in sorted({m.kernels for m in mutants})}
        broken = {m.name: pool.submit(make, m, m.kernels) for m in mutants}
        yield lambda m: (whole[m.kernels].result(), broken[m.name].result())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant(mutant, workshop):
    (whole_status, whole), (status, output) = workshop(mutant)
    assert whole_status == 0, f"the kernels as they are fail the check: {whole}"
    if mutant.changes == "numbers":
        assert status == 3, f"a broken kernel passed: {output}"
    elif mutant.changes == "bits":
        assert status == 0, output
        assert output != whole, "another order of arithmetic gave the same bits"
    else:
        assert (status, output) == (0, whole), f"{output} instead of {whole}"
