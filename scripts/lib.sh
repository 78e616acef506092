# Shared by the scripts in this directory: source it, do not run it. The working directory is the project's root.
# It must work with bash 3.2 (macOS) and with the tools of macOS and FreeBSD as well as GNU's.
# shellcheck shell=bash

die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

system=$(uname -s 2>/dev/null) || system=unknown
case $system in
MINGW* | MSYS* | CYGWIN*) die "Windows is not supported directly; use WSL (wsl --install) and run this script there" ;;
esac

# as_root CMD...: runs a command as root if that needs no password; returns 1 otherwise.
as_root() {
	if [[ $(id -u) == 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		sudo -n "$@"
	else
		return 1
	fi
}

# any_file PATTERN...: whether a glob pattern matches a file.
any_file() {
	local pattern
	for pattern in "$@"; do
		compgen -G "$pattern" >/dev/null && return
	done
	return 1
}

# installed PROBE: whether a program is installed. "postgres" is the server, which is often not on PATH;
# "certificates" are root certificates in a place where Go looks for them; "psycopg" is version 3 of the Python module.
installed() {
	command -v "$1" >/dev/null && return
	case $1 in
	postgres)
		any_file '/usr/lib/postgresql/*/bin/postgres' '/usr/pgsql-*/bin/postgres' \
			'/opt/homebrew/opt/postgresql*/bin/postgres' '/usr/local/opt/postgresql*/bin/postgres' \
			'/Applications/Postgres.app/Contents/Versions/*/bin/postgres'
		;;
	certificates)
		# Only on Linux are they a package. A directory is not enough: Debian's ssl-cert puts its own certificate there.
		[[ $system != Linux || -n ${SSL_CERT_DIR-} || -n ${SSL_CERT_FILE-} && -s $SSL_CERT_FILE ]] ||
			any_file /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem /etc/ssl/ca-bundle.pem \
				/etc/pki/tls/certs/ca-bundle.crt /etc/pki/tls/cacert.pem /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem
		;;
	psycopg)
		# A version manager may hide the system's Python, which has Debian's package.
		python3 -c 'import psycopg' 2>/dev/null || /usr/bin/python3 -c 'import psycopg' 2>/dev/null
		;;
	chromium)
		# Chrome is as good where Chromium has no package of its own.
		command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || command -v google-chrome-stable >/dev/null ||
			any_file '/Applications/Chromium.app/Contents/MacOS/Chromium' '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'
		;;
	*) [[ -x /usr/sbin/$1 ]] ;;
	esac
}

# install_hint PACKAGE...: the command that installs packages (given by their Debian names) on this system.
install_hint() {
	local name names=''
	case $system in
	Darwin | FreeBSD)
		for name in "$@"; do
			case $system/$name in
			Darwin/postgresql) name=postgresql@17 ;;
			Darwin/build-essential) name=gcc ;;
			Darwin/nodejs | FreeBSD/nodejs) name=node ;;
			*/dante-server) name=dante ;;
			Darwin/npm) continue ;; # in node
			Darwin/chromium-driver) name=chromedriver ;;
			FreeBSD/chromium-driver) continue ;; # in chromium
			FreeBSD/postgresql) name=postgresql17-server ;;
			FreeBSD/shellcheck) name=hs-ShellCheck ;;
			FreeBSD/build-essential) name=gcc ;;
			esac
			names="$names $name"
		done
		if [[ $system == Darwin ]]; then echo "with Homebrew: brew install$names"; else echo "as root: pkg install$names"; fi
		;;
	*)
		if command -v sudo >/dev/null; then
			echo "on Debian or Ubuntu: sudo apt-get install -y $*"
		else
			echo "on Debian or Ubuntu, as root: apt-get install -y $*"
		fi
		;;
	esac
}

# need PROBE=PACKAGE...: installs the packages whose programs are missing if apt is available and this user may use
# it. Otherwise it ends the script with one line that states what to install.
need() {
	local pair missing=()
	for pair in "$@"; do
		installed "${pair%%=*}" || missing+=("${pair#*=}")
	done
	[[ ${#missing[@]} == 0 ]] && return
	local hint
	hint="missing: ${missing[*]}; $(install_hint "${missing[@]}")"
	command -v apt-get >/dev/null || die "$hint"
	as_root true || die "$hint"
	local log began=$SECONDS status=0
	log=$(mktemp)
	printf 'Installing %s (may take a minute)\n' "${missing[*]}"
	apt_install "${missing[@]}" >"$log" 2>&1 || status=$?
	[[ $status == 0 ]] || tail -n 15 "$log" >&2
	rm -f "$log"
	[[ $status == 0 ]] || die "apt-get could not install them; $hint"
	printf 'Installed in %d s\n' $((SECONDS - began))
}

# apt_install PACKAGE...: installs packages without questions and recommended packages. Debian's postgresql creates
# and starts a cluster when it is installed. Nobody asked for one here, so a file in createcluster.d turns that off
# for the time of this installation. With no_services=1 no service that a package has is started (policy-rc.d): the tests
# start the proxies themselves.
apt_install() (
	no_cluster=/etc/postgresql-common/createcluster.d/imagetasks-no-cluster.conf policy=''
	trap 'as_root rm -f "$no_cluster" ${policy:+"$policy"}' EXIT
	if [[ -n ${no_services-} && ! -e /usr/sbin/policy-rc.d ]]; then
		policy=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
		as_root chmod 755 "$policy"
	fi
	as_root mkdir -p "${no_cluster%/*}"
	echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
	install=(env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@")
	# A new machine has no package lists yet, or old ones.
	as_root "${install[@]}" || { as_root apt-get update -q && as_root "${install[@]}"; }
)

# need_certificates: Go downloads modules over HTTPS, and fails with a TLS error if there are no root certificates.
need_certificates() { need certificates=ca-certificates; }

# have_modules: whether the modules that the programs import are downloaded already.
have_modules() { GOPROXY=off go list -deps ./cmd/... >/dev/null 2>&1; }

# need_go: finds Go, in the directory of its own installer too, and checks that it can build the project.
need_go() {
	local needed reason
	needed="Go $(sed -n 's/^go //p' go.mod) or later is needed"
	command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || die "Go is not installed. $needed: https://go.dev/dl/ (mainland China: https://golang.google.cn/dl/)"
	GOTOOLCHAIN=local go list -m >/dev/null 2>&1 && return
	# An older Go can download the right one by itself, unless GOTOOLCHAIN=local is set.
	need_certificates
	reason=$(go list -m 2>&1 >/dev/null) && return
	die "$(GOTOOLCHAIN=local go version 2>/dev/null | cut -d ' ' -f 3) can't build the project. $needed: https://go.dev/dl/ ($(tail -n 1 <<<"$reason"))"
}

# need_built: ends the script if the programs are not built yet.
need_built() {
	[[ -x bin/task-processor ]] || die "the programs are not built yet; run ./scripts/monitoring-setup.sh (or make build)"
}

# progress TEXT [TOTAL]: counts the packages (or modules) that the go command lists on standard input, and shows the
# count on standard error: in place on a terminal, else as a line every 15 seconds. Other lines, such as errors,
# are printed as they are.
progress() {
	local line count=0 began=$SECONDS shown=$SECONDS of=''
	[[ -z ${2-} ]] || of=" of at most $2"
	while IFS= read -r line || [[ -n $line ]]; do
		case $line in
		'go: downloading '*) ;;
		*[[:space:]:]* | '')
			[[ ! -t 2 ]] || printf '\r\033[K' >&2
			printf '%s\n' "$line" >&2
			continue
			;;
		esac
		count=$((count + 1))
		if [[ -t 2 ]]; then
			printf '\r\033[K  %s: %d%s, %d s' "$1" "$count" "$of" $((SECONDS - began)) >&2
		elif ((SECONDS - shown >= 15)); then
			shown=$SECONDS
			printf '  %s: %d%s, %d s\n' "$1" "$count" "$of" $((SECONDS - began)) >&2
		fi
	done
	[[ ! -t 2 || $count == 0 ]] || printf '\r\033[K' >&2
	[[ $count == 0 ]] || printf '  %s: %d in %d s\n' "$1" "$count" $((SECONDS - began)) >&2
}

# build DIR: builds the four programs, stripped, with the commit in --version if git is there to provide it.
# CGO_ENABLED=0: the result is the same whether gcc is installed or not, and installing gcc later rebuilds nothing.
# The tag leaves out the generator of man pages of the command line's library, which nothing calls and which takes time at each start.
build_tags=urfave_cli_no_docs
build() (
	export CGO_ENABLED=0
	vcs=true
	git rev-parse HEAD >/dev/null 2>&1 || vcs=false
	if ! have_modules; then
		need_certificates
		{ go list -deps ./cmd/... >/dev/null; } 2>&1 | progress "modules downloaded"
	fi
	packages=$(go list -tags "$build_tags" -deps ./cmd/... | wc -l)
	go build -v -tags "$build_tags" -trimpath -buildvcs="$vcs" -ldflags '-s -w' -o "$1/" ./cmd/... 2>&1 | progress "packages compiled" $((packages))
)

# step TITLE CMD...: runs a command under a title, prints its time, and returns its status.
step() {
	local title=$1 began=$SECONDS status=0
	shift
	printf '== %s\n' "$title"
	"$@" || status=$?
	((SECONDS - began < 2)) || printf '   %d s\n' $((SECONDS - began))
	return "$status"
}

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
golangci=github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# systems: where users build and run the project besides linux/amd64, which the tests run on.
systems='darwin/amd64 darwin/arm64 linux/arm64 freebsd/amd64'

check_format() {
	local unformatted
	unformatted=$(gofmt -l .)
	[[ -z $unformatted ]] || die "not formatted (run gofmt -w on them): $unformatted"
}

# vet_for OS/ARCH: type-checks and vets for another system. Nothing is linked; make release-check does that. Without
# optimization the dependencies compile in two thirds of the time.
vet_for() { GOOS=${1%/*} GOARCH=${1#*/} CGO_ENABLED=0 go vet '-gcflags=all=-N -l' ./...; }

# in_bench COMMAND...: a command of go in the module of the benchmarks, which needs River and others that the programs do not.
in_bench() (cd bench && go "$@")

# lint: the checks that run before the tests. golangci-lint is not among them: see .golangci.yaml.
lint() {
	need shellcheck=shellcheck gcc=build-essential
	step gofmt check_format
	step "go vet" go vet ./...
	step "go vet in bench" in_bench vet ./...
	step staticcheck go run "$staticcheck" ./...
	step shellcheck shellcheck -x scripts/*.sh .ci/run
	local target
	for target in $systems; do
		step "go vet for $target" vet_for "$target"
	done
}

# lint_full: golangci-lint, which is too slow to build for every run of the tests.
lint_full() { step golangci-lint go run "$golangci" run ./...; }

# release_check: builds the programs for every system, and removes them again.
release_check() (
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
	for target in linux/amd64 $systems; do
		GOOS=${target%/*} GOARCH=${target#*/} step "$target" build "$out/$target"
	done
	(cd "$out" && ls -l ./*/*/task-processor)
)

# fuzz TIME: runs each fuzz test for that long.
fuzz() {
	local file name
	grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | while IFS=: read -r file name; do
		name=${name#func }
		step "$name" go test -run '^$' -fuzz "^$name\$" -fuzztime "$1" "$(dirname "$file")" </dev/null || return
	done
}
