#!/usr/bin/env bash
# Everything that must pass before a change lands: formatting, vet, staticcheck, shellcheck and the tests
# under the race detector. Installs what they need where it may. What it is given goes to go test:
# ./scripts/test.sh -run Refund -count=3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

need_go
need postgres=postgresql tinyproxy=tinyproxy microsocks=microsocks pgbouncer=pgbouncer \
	shellcheck=shellcheck gcc=build-essential git=git

step() { printf '== %s\n' "$*"; }

step gofmt
unformatted=$(gofmt -l .)
[[ -z $unformatted ]] || die "not formatted (run gofmt -w on them): $unformatted"
step go vet
go vet ./...
step staticcheck
go run "$staticcheck" ./...
step shellcheck
shellcheck -x scripts/*.sh .ci/run
step go test -race
go test -race "$@" ./...
echo "all passed"
