package settings

import (
	"fmt"
	"strings"

	"imagetasks/pkg/lang"
)

// Title is a group's heading in the documents.
func Title(g Group) lang.Text {
	switch g {
	case GroupDatabase:
		return lang.Text{EN: "Database", ZH: "数据库"}
	case GroupAPI:
		return lang.Text{EN: "Image API", ZH: "图像 API"}
	case GroupProxy:
		return lang.Text{EN: "Proxy", ZH: "代理"}
	case GroupPictures:
		return lang.Text{EN: "Pictures", ZH: "图片"}
	case GroupProcessor:
		return lang.Text{EN: "Processor", ZH: "处理器"}
	case GroupCompletion:
		return lang.Text{EN: "Completion events", ZH: "完成事件"}
	}
	return lang.Text{EN: "Status and logs", ZH: "状态与日志"}
}

// grouped calls begin at the first setting of each group, and then each for every setting.
func grouped(begin func(Group), each func(Setting)) {
	last := Group("")
	for _, s := range List() {
		if s.Group != last {
			last = s.Group
			begin(last)
		}
		each(s)
	}
}

// filledIn reports whether a setting stands uncommented in .env.example: most installations set it.
func filledIn(s Setting) bool {
	return s.Env == "DATABASE_URL" || s.Env == "OPENAI_API_KEY" || s.Env == "OPENAI_PROXY"
}

// EnvExample returns the text of .env.example.
func EnvExample() string {
	var b strings.Builder
	b.WriteString(`# Settings of imagetasks. Copy this file to .env, run chmod 600 .env, and fill it in. The environment takes precedence.
# Single quotes keep every character of a value: OPENAI_PROXY='http://user:p#ss@127.0.0.1:7890'
# Settings that are commented out have their defaults.
`)
	grouped(func(g Group) { fmt.Fprintf(&b, "\n## %s\n", Title(g).EN) }, func(s Setting) {
		comment := "#"
		if filledIn(s) {
			comment = ""
		}
		fmt.Fprintf(&b, "# %s\n%s%s=%s\n", s.Usage, comment, s.Env, s.Default)
	})
	return b.String()
}

// Markdown returns the tables of the settings for docs/configuration.md, or for its Chinese version, one per group.
func Markdown(l lang.Lang) string {
	var b strings.Builder
	header := lang.Text{EN: "| variable | flag | default | meaning |", ZH: "| 变量 | 参数 | 默认值 | 说明 |"}.In(l)
	grouped(func(g Group) {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n|---|---|---|---|\n", Title(g).In(l), header)
	}, func(s Setting) {
		flag := ""
		if s.Flag != "" {
			flag = "--" + s.Flag
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", code(s.Env), code(flag), code(s.Default), lang.Text{EN: s.Usage, ZH: s.UsageZH}.In(l))
	})
	return strings.TrimPrefix(b.String(), "\n")
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
