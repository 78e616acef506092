#!/usr/bin/env bash
# Writes the manual pages of the four programs: ./scripts/man.sh DIR, then man -M DIR task-processor.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=${1:-}
if [[ $# -ne 1 || $dir == -* || -z $dir ]]; then
	echo "usage: ./scripts/man.sh DIR" >&2
	exit 2
fi
for program in task-processor monitor-tasks fix-stuck-tasks simple-test; do
	if [[ ! -x bin/$program ]]; then
		echo "error: bin/$program does not exist; build it with: make" >&2
		exit 1
	fi
done
mkdir -p "$dir/man1" "$dir/zh_CN/man1"
for program in task-processor monitor-tasks fix-stuck-tasks simple-test; do
	"bin/$program" man --lang en >"$dir/man1/$program.1"
	LC_ALL=C.UTF-8 "bin/$program" man --lang zh >"$dir/zh_CN/man1/$program.1"
done
