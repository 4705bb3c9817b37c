#!/bin/bash
# The digests of NEON: cross-compile the digest program, run it under an emulator, compare with the recorded lines.
# Needs aarch64-linux-gnu-g++, qemu-aarch64 and cmake.      .ci/neon.sh [build folder]
set -euo pipefail
source=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$(mktemp -d)}
cmake -S "$source" -B "$build" -DCHAINRULE_TOOLS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ > "$build.log" 2>&1 || { cat "$build.log"; exit 1; }
cmake --build "$build" --target chainrule_digest --parallel "$(nproc)"
for threads in 1 3; do
  qemu-aarch64 "$build/chainrule_digest" $threads | diff - "$source/tests/golden/digest.txt"
done
echo "NEON: every digest as recorded"
