package imageapi

import (
	"strconv"
	"strings"
)

// apiError is the API's error (https://platform.openai.com/docs/guides/error-codes), in any of the forms of relays.
type apiError struct {
	Code, Type, Message string
}

// status reads a status of the whole answer, or why a chat ended.
func (f *finder) status(text string, ended bool) {
	text = strings.ToLower(text)
	switch text {
	case "", "null", "none", "undefined", "queued", "pending", "starting", "processing", "running", "generating", "in_progress":
		return
	}
	if ended && !f.finished {
		f.finished = true
		if f.found() {
			f.hasPicture()
		}
	}
	switch text {
	case "failed", "fail", "failure", "error":
		f.refused = true
	case "content_filter", "safety", "prohibited_content", "image_safety":
		f.refused = true
		if f.problem.Code == "" {
			f.problem.Code = "content_filter"
		}
	}
}

// errorValue reads the value of a key for errors. null, false, and empty values are none.
func (f *finder) errorValue(p *parser, c byte) error {
	switch c {
	case '[':
		return p.array(func(int) error {
			c, err := p.next()
			if err != nil {
				return err
			}
			return f.errorValue(p, c)
		})
	case '"', '{':
		var e apiError
		var err error
		if c == '"' {
			e.Message, err = p.text(maxMessage)
		} else {
			err = f.errorObject(p, &e)
		}
		isError := e.Message != "" || (e.Type != "" && e.Code == "") || (e.Code != "" && !isSuccessCode(e.Code))
		if isError && !f.failed {
			f.failed, f.apiError = true, e
		}
		return err
	case 't':
		f.refused = true
	}
	return p.skip()
}

// errorObject reads an error object.
func (f *finder) errorObject(p *parser, e *apiError) error {
	return p.object(func(key string) error {
		c, err := p.next()
		if err != nil {
			return err
		}
		field := &e.Message
		switch strings.ToLower(key) {
		case "code", "error_code":
			field = &e.Code
		case "type", "status":
			field = &e.Type
		case "message", "msg", "detail", "error", "error_msg":
		case "inner_error", "innererror":
			var inner apiError
			err := f.nestedError(p, c, &inner)
			if e.Code == "" {
				e.Code = inner.Code
			}
			return err
		default:
			return p.skip()
		}
		var text string
		switch {
		case c == '"':
			text, err = p.text(maxMessage)
		case c == '-' || (c >= '0' && c <= '9'):
			text, err = p.numberText()
		case c == '{' && field == &e.Message:
			var inner apiError
			err = f.errorObject(p, &inner)
			text = inner.Message
			if e.Code == "" {
				e.Code = inner.Code
			}
		default:
			err = p.skip()
		}
		if *field == "" {
			*field = text
		}
		return err
	})
}

func (f *finder) nestedError(p *parser, c byte, e *apiError) error {
	if c == '{' {
		return f.errorObject(p, e)
	}
	return p.skip()
}

// conclude decides what the keys of the document mean together.
func (f *finder) conclude() {
	if f.failed {
		if f.apiError.Code == "" {
			f.apiError.Code = f.problem.Code
		}
		if more := f.problem.Message; more != "" && !strings.Contains(f.apiError.Message, more) {
			f.apiError.Message = strings.TrimPrefix(f.apiError.Message+": "+more, ": ")
		}
		return
	}
	isError := f.problem.Type == "error" || (f.problem.Code != "" && !isSuccessCode(f.problem.Code))
	f.failed = f.refused || (isError && (f.problem.Message != "" || f.problem.Code != ""))
	f.apiError = f.problem
}

// isSuccessCode reports whether a code in an answer means success.
func isSuccessCode(code string) bool {
	switch strings.ToLower(code) {
	case "0", "1", "ok", "success", "succeeded", "000000", "10000":
		return true
	}
	n, err := strconv.Atoi(code)
	return err == nil && isSuccess(n)
}
