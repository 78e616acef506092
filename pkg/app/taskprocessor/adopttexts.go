package taskprocessor

import "imagetasks/pkg/lang"

// adopt.
var (
	textBridgeWritten    = lang.Text{EN: "the part [bridge] of %s is written (lines: %d certain, %d likely, %d guessed); each has a comment", ZH: "已写入 %s 的 [bridge] 部分：%d 行确定，%d 行很可能，%d 行为推测；每行都有注释"}
	textBridgeNotWritten = lang.Text{EN: "no file is written: there is nothing to propose", ZH: "未写入文件：没有可以提出的方案"}
	textBridgeQuestions  = lang.Text{EN: "%d questions are open; answer them in the file, and remove them there:", One: "%d question is open; answer it in the file, and remove it there:",
		ZH: "有 %d 个问题待回答；请在文件中回答，并在其中删除这些问题："}
	textOldLine       = lang.Text{EN: "an old script is started by cron: %s, line %d: %s; comment the line out", ZH: "cron 会启动旧脚本：%s 第 %d 行：%s；请将该行注释掉"}
	textOldProcess    = lang.Text{EN: "an old script is running: %s (pid %d); stop it", ZH: "旧脚本正在运行：%s（进程 %d）；请停止它"}
	textOldScriptsRun = lang.Text{EN: "the bridge is not put in place: the old scripts would work the same rows; switch them off first, or use --force",
		ZH: "未启用桥接：旧脚本会处理相同的行；请先停用旧脚本，或使用 --force"}
	textNoBaseURL = lang.Text{EN: "IMAGE_BASE_URL is not set, so the application's rows would get names of files instead of URLs; set it to the URL under which IMAGE_STORE is served, or use --apply --force",
		ZH: "未设置 IMAGE_BASE_URL，应用的行中写入的将是文件名而不是 URL；请将其设置为对外提供 IMAGE_STORE 的 URL，或使用 --apply --force"}
	textBridgeStep    = lang.Text{EN: "done: %s", ZH: "已完成：%s"}
	textBridgeApplied = lang.Text{EN: "the bridge is in place (%d steps)", One: "the bridge is in place (%d step)", ZH: "桥接已启用（%d 个步骤）"}
	textBridgeRemoved = lang.Text{EN: "the bridge is removed; waiting tasks given back to the application: %d, of these set back to waiting: %d; ends of tasks given up: %d",
		ZH: "桥接已移除：%d 个等待中的任务已交还应用，其中 %d 个重置为等待；放弃了 %d 个任务的结束写入"}
	textBridgeProblem = lang.Text{EN: "failed: %s of %s: %s (tries: %d)", ZH: "失败：%s，%s：%s（已尝试 %d 次）"}
	textBridgeAgrees  = lang.Text{EN: "both sides agree", ZH: "两侧一致"}
)
