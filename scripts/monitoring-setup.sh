#!/usr/bin/env bash
# Sets up this host: builds the programs, creates .env if it is missing, migrates the database, and adds the entries
# of deploy/crontab to this user's crontab. Safe to repeat. If lines of the crontab run the Node scripts that imagetasks
# replaces, it asks whether to comment them out.
#   --print         prints the entries and changes nothing
#   --disable-old   comments those lines out without a question
#   --keep-old      leaves those lines as they are
#   --uninstall     removes from the crontab what this script added, and restores the lines that it commented out;
#                   with --disable-old they stay commented out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
export LC_ALL=C

project=$(pwd -P)
begin="# BEGIN imagetasks $project"
end="# END imagetasks $project"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
old=$scratch/old new=$scratch/new
# shellcheck source=scripts/oldscripts.sh
source scripts/oldscripts.sh

# entries TIME: deploy/crontab for this directory, quoted for sh, with TIME as the time of installation. In a crontab a
# bare % means a newline.
entries() {
	local quoted="'${project//\'/\'\\\'\'}'"
	project=$project directory=${quoted//%/\\%} installed=$1 awk '
		function put(text, mark, value,   at) {
			if ((at = index(text, mark)) == 0) return text
			return substr(text, 1, at - 1) value substr(text, at + length(mark))
		}
		{ print put(put(put($0, "@PROJECT@", ENVIRON["project"]), "@DIRECTORY@", ENVIRON["directory"]), "@INSTALLED@", ENVIRON["installed"]) }' deploy/crontab
}

# current FILE: writes the crontab to FILE; empty if the user has none.
current() {
	local message editor
	if ! message=$(crontab -l 2>&1 >"$1"); then
		# BusyBox has its own message.
		[[ $message == *"no crontab for"* || $message == "crontab: can't open "*"No such file"* ]] || die "crontab -l: $message"
		: >"$1"
	elif grep -q '\\r' "$1"; then
		# Debian's crontab -l prints a carriage return as \r. An editor gets the crontab as it is.
		# shellcheck disable=SC2016 # the editor expands it
		echo 'cat "$1" >"$exact"' >"$scratch/editor"
		editor="sh '$scratch/editor'"
		message=$(exact=$scratch/exact EDITOR=$editor VISUAL=$editor crontab -e 2>&1 </dev/null) || die "crontab -e: $message"
		mv "$scratch/exact" "$1"
	fi
	# crontab refuses a file whose last line has no end, and cron ignores that line.
	[[ ! -s $1 || -z $(tail -c 1 "$1") ]] || echo >>"$1"
}

# block FILE: our entries in the crontab in FILE, markers included.
block() {
	begin=$begin end=$end awk '
		$0 == ENVIRON["begin"] { inside = 1 }
		inside { print; if ($0 == ENVIRON["end"]) inside = 0 }' "$1"
}

# without FILE: the crontab in FILE without our entries; every other line is unchanged.
without() {
	begin=$begin end=$end awk '
		$0 == ENVIRON["begin"] { inside = 1 }
		inside { if ($0 == ENVIRON["end"]) inside = 0; next }
		{ print }
		END { if (inside) exit 1 }' "$1" ||
		die "the crontab has \"$begin\" without its end; fix it with crontab -e, then run this again"
}

# wanted FILE: the entries to install. The time of installation stays as long as the entries do not change, so that
# repeating this script changes nothing.
wanted() {
	local present installed
	present=$(block "$1")
	installed=$(sed -n 's/^# Installed \([0-9TZ:-]*\)$/\1/p' <<<"$present" | head -n 1)
	if [[ -z $installed || $(entries "$installed") != "$present" ]]; then
		installed=$(date -u +%Y-%m-%dT%H:%M:%SZ)
	fi
	entries "$installed"
}

need_cron() {
	command -v crontab >/dev/null ||
		die "cron is not installed; $(install_hint cron); or use the units in deploy/systemd"
}

print_entries() {
	(current "$old") 2>/dev/null || : >"$old" # without a usable crontab, as before an installation
	wanted "$old"
	name_lines "$old" >&2
}

# decide FILE: what to do with the lines that run the old scripts, which it names: sets $answer to keep, disable, or nothing if
# there is nobody to ask.
decide() {
	answer=$choice
	if name_lines "$1"; then
		answer=keep
	elif [[ -z $answer && -t 0 && -t 1 ]]; then
		read -r -p "              Comment them out? --uninstall restores them. [y/N] " answer || answer=''
		case $answer in [Yy]*) answer=disable ;; *) answer=keep ;; esac
	fi
}

install_entries() {
	local answer
	current "$old"
	without "$old" >"$new"
	decide "$new"
	if [[ $answer == disable ]]; then
		disable_old "$new" >"$scratch/disabled"
		mv "$scratch/disabled" "$new"
	fi
	wanted "$old" >>"$new"
	if cmp -s "$old" "$new"; then
		echo "crontab       the entries are up to date"
	else
		crontab "$new"
		echo "crontab       entries installed"
	fi
	if [[ $answer == disable ]]; then
		echo "old scripts   the lines are commented out; ./scripts/monitoring-setup.sh --uninstall restores them"
	elif [[ -z $answer ]]; then
		echo "old scripts   the lines are unchanged; to comment them out: ./scripts/monitoring-setup.sh --disable-old"
		unsettled=1
	fi
}

uninstall_entries() {
	local restored=''
	current "$old"
	without "$old" >"$new"
	if [[ $choice != disable ]]; then
		restored=$(disabled_lines "$new")
		restore_old "$new" >"$scratch/restored"
		mv "$scratch/restored" "$new"
	fi
	if cmp -s "$old" "$new"; then
		echo "crontab       has no entries of this project"
	elif [[ -s $new ]]; then
		crontab "$new"
		echo "crontab       entries removed"
	else
		crontab -r </dev/null # FreeBSD asks for confirmation on a terminal
		echo "crontab       entries removed; the crontab was empty then and is removed too"
	fi
	if [[ -n $restored ]]; then
		echo "old scripts   these lines of the crontab are active again:"
		indented <<<"$restored"
	fi
}

# bare CMD...: runs a command with the environment that cron gives to its jobs, to check that .env has all settings.
bare() {
	env -i HOME="${HOME:-/}" LOGNAME="$(id -un)" SHELL=/bin/sh PATH=/usr/bin:/bin "$@"
}

[[ $project != *$'\n'* ]] || die "the project's path contains a line break; move the project"
action=install choice='' unsettled=''
for argument in "$@"; do
	case $argument in
	--print | --uninstall) [[ $action == install ]] && action=${argument#--} || action=usage ;;
	--disable-old | --keep-old)
		[[ -z $choice ]] || action=usage
		choice=${argument#--} choice=${choice%-old}
		;;
	--help)
		action=help
		break
		;;
	*) action=usage ;;
	esac
done
case $action in
print)
	print_entries || :
	exit
	;;
uninstall)
	need_cron
	uninstall_entries
	echo "The processor is unchanged; ./scripts/stop-processor.sh stops it."
	exit
	;;
help | usage)
	sed -n '2,/^set /s/^# \{0,1\}//p' "scripts/$(basename "$0")"
	[[ $action == help ]] || exit 2
	exit
	;;
esac

need_go
build bin
echo "programs      built into bin/"

if [[ ! -e .env ]]; then
	(umask 077 && cp .env.example .env)
	chmod 600 .env
	die ".env is created from .env.example; fill in DATABASE_URL, OPENAI_API_KEY and OPENAI_PROXY, then run this again"
fi
chmod 600 .env
echo "settings      .env, readable by this user only"
grep -q '^ *\(export \)\{0,1\}IMAGE_STORE=' .env || mkdir -p images

bare bin/task-processor migrate | sed 's/^/database      /'

need_cron
install_entries
name_system_lines
name_processes
cat <<TEXT
Done. The monitor runs every five minutes. Next:
  bin/simple-test                  check the connection to the image API
  ./scripts/start-processor.sh     start the processor
  ./scripts/check-status.sh        print the state of everything
TEXT
[[ -z $unsettled ]] || exit 3
