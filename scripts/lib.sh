# Shared by the scripts beside it; sourced, never run. The working directory is the project's root.
# shellcheck shell=bash

die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# as_root CMD...: runs a command as root where that needs no password; 1 where it does.
as_root() {
	if [[ $(id -u) == 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		sudo -n "$@"
	else
		return 1
	fi
}

# installed PROBE: whether a program is there; "postgres" means the server, which Debian keeps off PATH.
installed() {
	command -v "$1" >/dev/null && return
	case $1 in
	postgres) compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ;;
	*) [[ -x /usr/sbin/$1 ]] ;;
	esac
}

# need PROBE=PACKAGE...: installs the packages whose programs are missing, through apt where this user
# may, or ends the script with one line that says what to install.
need() {
	local pair missing=()
	for pair in "$@"; do
		installed "${pair%%=*}" || missing+=("${pair#*=}")
	done
	[[ ${#missing[@]} == 0 ]] && return
	local hint="missing: ${missing[*]}; on Debian or Ubuntu: sudo apt-get install -y ${missing[*]}"
	command -v apt-get >/dev/null || die "$hint"
	as_root true || die "$hint"
	printf 'Installing %s …\n' "${missing[*]}"
	local log
	log=$(mktemp)
	# A machine that is new may not have the lists of packages, or have old ones.
	if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >"$log" 2>&1 &&
		! { as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive \
			apt-get install -qy --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
		tail -n 15 "$log" >&2
		rm -f "$log"
		die "apt-get could not install them; $hint"
	fi
	rm -f "$log"
}

# need_go: finds Go, in the place of its own installer too.
need_go() {
	command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || die "Go is not installed; get 1.26 or later from https://go.dev/dl/"
	go list -m >/dev/null 2>&1 || die "this Go can't build the project: $(go list -m 2>&1 | tail -n 1) (Go 1.26 or later is needed)"
}

# need_built: ends the script where the programs are not built yet.
need_built() {
	[[ -x bin/task-processor ]] || die "the programs are not built yet; run ./scripts/monitoring-setup.sh (or make build)"
}

# build DIR: the four programs, small, with the commit in --version where git can tell it.
build() {
	local vcs=true
	git rev-parse HEAD >/dev/null 2>&1 || vcs=false
	go build -trimpath -buildvcs="$vcs" -ldflags '-s -w' -o "$1/" ./cmd/...
}

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2

step() { printf '== %s\n' "$*"; }

# lint: what can't be argued with.
lint() {
	need shellcheck=shellcheck gcc=build-essential
	step gofmt
	local unformatted
	unformatted=$(gofmt -l .)
	[[ -z $unformatted ]] || die "not formatted (run gofmt -w on them): $unformatted"
	step go vet
	go vet ./...
	step staticcheck
	go run "$staticcheck" ./...
	step shellcheck
	shellcheck -x scripts/*.sh .ci/run
}

# fuzz TIME: each fuzz test for that long.
fuzz() {
	local file name
	grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file name; do
		name=${name#func }
		step "$name"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "$1" "$(dirname "$file")" </dev/null || return
	done
}
