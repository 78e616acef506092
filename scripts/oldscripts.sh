# The Node scripts that imagetasks replaces: finds what still runs them, in this user's crontab and among the processes.
# monitoring-setup.sh sources this file; $project is the project's directory.
# shellcheck shell=bash

: "${project:?}"
# The path is quoted as for sh, so that no project's prefix begins with that of another.
disabled="# disabled by imagetasks in '${project//\'/\'\\\'\'}': "

# old_scripts RULES FILE: runs awk with functions that recognize the old scripts. In a command only what runs a script counts: pgrep,
# echo and others may have its name as an argument.
old_scripts() {
	disabled=$disabled awk '
		function name(word) {
			gsub(/["\047\\]/, "", word)
			sub(/.*\//, "", word)
			return word
		}
		function is_script(word) {
			return name(word) ~ /^(monitor[-_]tasks|task[-_]processor|task[-_]monitor|fix[-_]stuck[-_]tasks)\.[cm]?[jt]s$/
		}
		function is_runner(word) {
			return name(word) ~ /^(node(js)?[0-9.]*|bun|deno|tsx|ts-node|npx|npm|pnpm|yarn|zx|nodemon|forever|pm2|pm2-runtime)$/
		}
		# Whether a command runs one of the scripts, by a runner or itself.
		function runs(command,   words, n, i, runner, before) {
			gsub(/[0-9]*[<>]+[ \t]*[^ \t]+/, " ", command)
			n = split(command, words, /[ \t]+/)
			before = 1
			for (i = 1; i <= n; i++) {
				if (words[i] == "") continue
				if (is_script(words[i]) && (runner || before)) return 1
				if (is_runner(words[i])) runner = 1
				if (!before) continue
				# What may stand before the command itself.
				if (words[i] ~ /^-/ || words[i] ~ /^[A-Za-z_][A-Za-z0-9_]*=/ || words[i] ~ /^[0-9.]+[smhd]?$/) continue
				if (name(words[i]) == "flock") {
					do i++; while (i <= n && words[i] ~ /^-/)
					continue
				}
				if (name(words[i]) ~ /^(sudo|env|nohup|nice|ionice|timeout|setsid|exec|time|stdbuf|chronic|command|(ba|da|z)?sh|if|then|else|do|while|until|!)$/) continue
				if (name(words[i]) ~ /^(pkill|pgrep|kill|killall|ps|[ef]?grep|rg|echo|printf|logger|test|\[|cat|tail|head|ls|cp|mv|rm|ln|tar|find)$/) return 0
				before = 0
			}
			return 0
		}
		# Whether a line of a crontab does; without its schedule, and without what follows a bare %, which is input.
		function is_old(line,   parts, n, i) {
			if (line ~ /^[ \t]*(#|$)/ || line ~ /^[ \t]*["\047]?[A-Za-z_][A-Za-z0-9_]*["\047]?[ \t]*=/) return 0
			sub(/\r$/, "", line)
			gsub(/\\%/, "\001", line)
			sub(/%.*/, "", line)
			if (!sub(/^[ \t]*@[A-Za-z]+[ \t]+/, "", line)) sub(/^[ \t]*[^ \t]+[ \t]+[^ \t]+[ \t]+[^ \t]+[ \t]+[^ \t]+[ \t]+[^ \t]+[ \t]+/, "", line)
			if (ENVIRON["system_crontab"]) sub(/^[^ \t]+[ \t]+/, "", line) # the user
			n = split(line, parts, /[;&|(){}`]+/)
			for (i = 1; i <= n; i++) if (runs(parts[i])) return 1
			return 0
		}
		'"$1" "$2"
}

# shellcheck disable=SC2016 # awk expands what is in these quotes
old_lines='is_old($0)' disable_old='is_old($0) { print ENVIRON["disabled"] $0; next } { print }'

# old_lines FILE: the lines of a crontab that run the old scripts.
old_lines() { old_scripts "$old_lines" "$1"; }

# disable_old FILE: the crontab with these lines commented out.
disable_old() { old_scripts "$disable_old" "$1"; }

# disabled_lines FILE: the lines that disable_old commented out, as they were.
disabled_lines() {
	disabled=$disabled awk 'index($0, ENVIRON["disabled"]) == 1 { print substr($0, length(ENVIRON["disabled"]) + 1) }' "$1"
}

# restore_old FILE: the crontab with these lines as they were.
restore_old() {
	disabled=$disabled awk '
		index($0, ENVIRON["disabled"]) == 1 { print substr($0, length(ENVIRON["disabled"]) + 1); next }
		{ print }' "$1"
}

# indented: the lines of standard input under a heading, without the secrets that commands may contain.
indented() {
	sed -E -e 's/^/              /' -e 's/([A-Z_]*(KEY|SECRET|TOKEN|PASSWORD)[A-Z_]*=)[^ ]*/\1…/g' -e 's,(://[^ /:@]*:)[^ /@]*@,\1…@,g'
}

# name_lines FILE: reports the lines of the crontab in FILE that run the old scripts; returns 1 if there are any.
name_lines() {
	local lines
	lines=$(old_lines "$1")
	[[ -n $lines ]] || return 0
	echo "old scripts   these lines of the crontab run scripts that work on the same tasks as imagetasks:"
	indented <<<"$lines"
	return 1
}

# name_system_lines: reports such lines in the crontabs of the system, which only root may change.
name_system_lines() {
	local file lines
	for file in /etc/crontab /etc/cron.d/*; do
		[[ -f $file && -r $file ]] || continue
		lines=$(system_crontab=1 old_lines "$file")
		[[ -n $lines ]] || continue
		echo "old scripts   $file runs scripts that work on the same tasks as imagetasks; comment these lines out there:"
		indented <<<"$lines"
	done
}

# shellcheck disable=SC2016 # awk expands what is in these quotes
old_processes='{
	text = $0
	sub(/^[ \t]*[0-9]+[ \t]+[^ \t]+[ \t]+/, "", text)
	n = split(text, words, /[ \t]+/)
	if (!is_runner(words[1]) && !is_script(words[1])) next
	command = words[1]
	for (i = 2; i <= n && !is_script(words[i - 1]); i++) command = command " " words[i]
	if (is_script(words[i - 1])) print (name(words[i - 1]) ~ /monitor/ ? 0 : 1), $1, $2, command
}'

# old_processes: pid, user and command of the processes that run the old scripts, one a line. Monitors come first, because they start
# the processor again.
old_processes() {
	local all
	command -v ps >/dev/null || return 0
	# BusyBox has no -A and shows all processes without it.
	all=$(ps -A -ww -o pid= -o user= -o args= 2>/dev/null || ps -o pid,user,args 2>/dev/null) || return 0
	old_scripts "$old_processes" - <<<"$all" | sort -k 1,1n -k 2,2n | cut -d ' ' -f 2-
}

# stop_hint PID: the command that stops a process so that it stays stopped, and what shows that.
stop_hint() {
	local groups id unit parent
	groups=$(cat "/proc/$1/cgroup" 2>/dev/null) || groups=''
	unit=$(sed -n 's,^.*/\([^/]*\.service\)\(/[^/]*\)*$,\1,p' <<<"$groups" | head -n 1)
	# shellcheck disable=SC2009 # pgrep does not print the command
	parent=$(ps -o args= -p "$(ps -o ppid= -p "$1" 2>/dev/null | tr -d ' ')" 2>/dev/null) || parent=''
	id=$(tr '\0' '\n' <"/proc/$1/environ" 2>/dev/null | sed -n 's/^pm_id=\([0-9]*\)$/\1/p') || id=''
	if [[ -n $id ]]; then
		echo "pm2 stop $id && pm2 save"
	elif [[ $parent == PM2* || $unit == pm2* ]]; then
		echo "pm2 list, then pm2 stop ID && pm2 save"
	elif [[ $groups =~ (docker[-/]|containerd[-/]|libpod[-/])([0-9a-f]{12}) ]]; then
		echo "in its container: docker stop ${BASH_REMATCH[2]}"
	elif [[ $groups == *"/user@"*"/$unit"* && $unit != user@* && -n $unit ]]; then
		echo "systemctl --user disable --now $unit"
	else
		case $unit in
		'' | cron.service | crond.service | ssh.service | sshd.service | user@*) echo "kill $1" ;;
		*) echo "systemctl disable --now $unit" ;;
		esac
	fi
}

# name_processes: reports the processes that run the old scripts.
name_processes() {
	local pid user command found
	found=$(old_processes)
	[[ -n $found ]] || return 0
	echo "old scripts   these processes work on the same tasks as imagetasks; stop them, in this order:"
	while read -r pid user command; do
		printf 'pid %s of %s: %s\n  to stop it: %s\n' "$pid" "$user" "$command" "$(stop_hint "$pid")"
	done <<<"$found" | indented
}
