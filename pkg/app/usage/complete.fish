# fish completion of @PROGRAM@; load it with: @PROGRAM@ completion fish | source
function @FUNCTION@
	set -l words (commandline -opc)
	set -l current (commandline -ct)
	for line in ($words[1] __complete fish $words[2..-1] $current 2>/dev/null)
		switch $line
			case ':files*'
				__fish_complete_path $current
			case ':directories*'
				__fish_complete_directories $current
			case '*'
				echo $line
		end
	end
end
complete -c @PROGRAM@ -f -a '(@FUNCTION@)'
