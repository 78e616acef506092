#!/usr/bin/env bash
# Moves imagetasks in with eight applications that have tables of their own (internal/appshapes), each with 20,000 tasks and a live writer: adopted,
# worked, checked and removed, one after the other. Uses private PostgreSQL servers and leaves nothing behind. Takes about 10 minutes. Exit code 0 or 1.
#   ./scripts/adopt-matrix.sh [shape ...]   for example supabase quoted; without arguments all
#   --help                                  shows this text
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

case ${1-} in
--help | -h)
	sed -n '2,6s/^# \{0,1\}//p' "scripts/$(basename "$0")"
	exit 0
	;;
esac
need_go
need postgres=postgresql
run='^TestMatrix$'
if [ $# -gt 0 ]; then
	run="$run/^($(IFS='|' && echo "$*"))\$"
fi
IMAGETASKS_MATRIX=full go test ./internal/bridgetest -count 1 -parallel 1 -timeout 60m -v -run "$run"
