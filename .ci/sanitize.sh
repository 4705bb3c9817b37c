#!/bin/bash
# The kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer: built into the given folder, two files at a time.
# Run in a clone, in an environment that it may install tools into.
set -euo pipefail
folder=$1
python -m pip install cmake ninja pybind11 cython numpy safetensors pytest pytest-benchmark hypothesis
cmake -S . -B "$folder/build" -G Ninja -DCHAINRULE_PYTHON=ON -DCHAINRULE_SANITIZE=ON -DCMAKE_INSTALL_PREFIX="$folder/site" \
  -DPython_EXECUTABLE="$(command -v python)" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
cmake --build "$folder/build" -- -j 2
cp -r python "$folder/site"
cmake --install "$folder/build"
sanitizers="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libubsan.so) $(c++ -print-file-name=libstdc++.so)"
export sanitizers folder
long=(tests/test_kernels_{attention,masked_products,wavenet,nade}.py)  # first: no core is left alone with one at the end
printf '%s\n' "${long[@]}" tests/test_kernels*.py tests/test_math.py | awk '!seen[$0]++' | xargs -P 2 -I FILE bash -c '
  log=$folder/$(basename FILE).log
  PYTHONPATH=$folder/site PYTHONMALLOC=malloc LD_PRELOAD=$sanitizers ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    python -m pytest -q -p no:cacheprovider --capture=sys "FILE" > "$log" 2>&1 || { cat "$log"; exit 255; }
  echo "FILE: $(tail -n 1 "$log")"'
