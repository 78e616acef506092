package simapi

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// relayForms are the behaviours of relays that answer with a picture in another form than the API's:
//
//	[gzip] [deflate]  compressed, though it was not asked for
//	[gzip unnamed]    the same without the header Content-Encoding
//	[bom]             a byte-order mark before the JSON
//	[space]           white space every 20 ms for 400 ms, then the JSON
//	[sse]             an event stream with two partial images, then the picture
//	[data url]        a data: URL in the field url
//	[chat]            a stream of chat chunks with a data: URL in markdown
//	[chat url]        the same with the picture's URL, split over the chunks
//	[image field]     the picture in the field image of an object
//	[bytes]           the picture itself as the body
//	[relative url]    the path of the picture on this server as its URL
var relayForms = map[string]func(s *Server, w http.ResponseWriter, c Call){
	"gzip":         func(s *Server, w http.ResponseWriter, c Call) { s.compressed(w, c, "gzip", true) },
	"gzip unnamed": func(s *Server, w http.ResponseWriter, c Call) { s.compressed(w, c, "gzip", false) },
	"deflate":      func(s *Server, w http.ResponseWriter, c Call) { s.compressed(w, c, "deflate", true) },
	"bom":          func(s *Server, w http.ResponseWriter, c Call) { send(w, append([]byte("\ufeff"), s.body(c)...)) },
	"space": func(s *Server, w http.ResponseWriter, c Call) {
		w.Header().Set("Content-Type", "application/json")
		for range 20 {
			if _, err := io.WriteString(w, " \n"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
		_, _ = w.Write(s.body(c))
	},
	"sse": func(s *Server, w http.ResponseWriter, c Call) {
		w.Header().Set("Content-Type", "text/event-stream")
		partial := base64.StdEncoding.EncodeToString(Draw("a partial image"))
		_, _ = io.WriteString(w, ": keep-alive\n\n")
		for i := range 2 {
			fmt.Fprintf(w, "event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"partial_image_index\":%d,"+
				"\"b64_json\":\"%s\"}\n\n", i, partial)
		}
		fmt.Fprintf(w, "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"%s\"}\n\n"+
			"data: [DONE]\n\n", s.encoded(c))
	},
	"data url": func(s *Server, w http.ResponseWriter, c Call) {
		send(w, []byte(`{"created":1767225600,"data":[{"url":"data:image/png;base64,`+s.encoded(c)+`"}]}`))
	},
	"chat":     func(s *Server, w http.ResponseWriter, c Call) { chat(w, "data:image/png;base64,"+s.encoded(c)) },
	"chat url": func(s *Server, w http.ResponseWriter, c Call) { chat(w, s.PictureURL(c.Prompt)) },
	"image field": func(s *Server, w http.ResponseWriter, c Call) {
		send(w, []byte(`{"success":true,"data":{"image":"`+s.encoded(c)+`"}}`))
	},
	"bytes": func(s *Server, w http.ResponseWriter, c Call) {
		content := convert(s.conf.Picture(c.Prompt), c.Options["output_format"])
		w.Header().Set("Content-Type", http.DetectContentType(content))
		_, _ = w.Write(content)
	},
	"relative url": func(s *Server, w http.ResponseWriter, c Call) {
		path := strings.TrimPrefix(s.PictureURL(c.Prompt), strings.TrimSuffix(s.URL(), "/v1"))
		answer(w, http.StatusOK, map[string]any{"data": []any{map[string]string{"url": path}}})
	},
}

// Failure returns the refusal of that name, for Refuse and RefuseModel; nil: there is none. In brackets the names are behaviours, too:
//
//	not verified     403, the organization must be verified for the model
//	no access        403, the project has no access to the model
//	no channel       503 of new-api, a model that no channel offers
//	no channel zh    the same in Chinese
//	no price         500 of new-api, a model without a price
//	user quota       403 of new-api, insufficient_user_quota
//	token quota      401 of one-api in Chinese: the token's quota is used up
//	upstream 401     401 of new-api, its upstream's key was refused
//	saturated        429 of new-api in Chinese
//	30011            {"code":30011,"message":…} with status 403: no balance
//	text error       {"error":"…"} with status 500
//	success false    {"success":false,"message":…} with status 200
//	country          403, the country of the address is not served
//	cloudflare N     a page of Cloudflare, such as "cloudflare 524"
//	nginx N          a page of nginx, such as "nginx 502"
//	portal           a web page with status 200
func Failure(name string) *Refusal {
	if code, ok := strings.CutPrefix(name, "cloudflare "); ok {
		status := statusOf(code)
		return &Refusal{Status: status, ContentType: "text/html; charset=UTF-8", Header: http.Header{"Server": {"cloudflare"}, "Cf-Ray": {"0-SIM"}},
			Body: fmt.Sprintf("<!DOCTYPE html><html><head><title>api.example.com | %d: A timeout occurred</title></head>"+
				"<body><h1>Error %d</h1><a href=\"https://www.cloudflare.com/5xx-error-landing\">cloudflare.com</a></body></html>", status, status)}
	}
	if code, ok := strings.CutPrefix(name, "nginx "); ok {
		status := statusOf(code)
		return &Refusal{Status: status, ContentType: "text/html", Header: http.Header{"Server": {"nginx"}},
			Body: fmt.Sprintf("<html>\r\n<head><title>%[1]d %[2]s</title></head>\r\n<body>\r\n<center><h1>%[1]d %[2]s</h1></center>\r\n"+
				"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n", status, http.StatusText(status))}
	}
	if r, ok := failures[name]; ok {
		return &r
	}
	return nil
}

func statusOf(text string) int {
	status := http.StatusBadGateway
	_, _ = fmt.Sscan(text, &status)
	return status
}

var failures = map[string]Refusal{
	"not verified": {Status: http.StatusForbidden, Message: "Your organization must be verified to use the model `gpt-image-1`. " +
		"Please go to: https://platform.openai.com/settings/organization/general and click on Verify Organization."},
	"no access": {Status: http.StatusForbidden, Code: "model_not_found", Message: "Project `proj_1` does not have access to model `gpt-image-1`"},
	"no channel": {Status: http.StatusServiceUnavailable, Code: "model_not_found",
		Message: "No available channel for model gpt-image-1 under group default (distributor)"},
	"no channel zh": {Status: http.StatusServiceUnavailable, Code: "model_not_found",
		Message: "分组 default 下模型 gpt-image-1 无可用渠道（distributor）"},
	"no price": {Status: http.StatusInternalServerError, Code: "model_price_error",
		Message: "模型 gpt-image-1 倍率或价格未配置，请联系管理员设置或开始自用模式"},
	"user quota":    {Status: http.StatusForbidden, Code: "insufficient_user_quota", Message: "用户额度不足，剩余额度：＄0.000000"},
	"token quota":   {Status: http.StatusUnauthorized, Message: "该令牌额度已用尽"},
	"upstream 401":  {Status: http.StatusUnauthorized, Code: "bad_response_status_code", Message: "bad response status code 401"},
	"saturated":     {Status: http.StatusTooManyRequests, Message: "当前分组上游负载已饱和，请稍后再试"},
	"30011":         {Status: http.StatusForbidden, ContentType: "application/json", Body: `{"code":30011,"message":"account balance is insufficient","data":null}`},
	"text error":    {Status: http.StatusInternalServerError, ContentType: "application/json", Body: `{"error":"overloaded"}`},
	"success false": {Status: http.StatusOK, ContentType: "application/json", Body: `{"success":false,"message":"busy, try again later"}`},
	"country": {Status: http.StatusForbidden, Code: "unsupported_country_region_territory",
		Message: "Country, region, or territory not supported"},
	"portal": {Status: http.StatusOK, WebPage: true},
}

// relay responds with a behaviour of a relay, if it has that name.
func (s *Server) relay(w http.ResponseWriter, _ *http.Request, c Call, name string) bool {
	if form, ok := relayForms[name]; ok {
		form(s, w, c)
		return true
	}
	if r := Failure(name); r != nil {
		r.send(w)
		return true
	}
	return false
}

// encoded returns the picture of a request in base64.
func (s *Server) encoded(c Call) string {
	return base64.StdEncoding.EncodeToString(convert(s.conf.Picture(c.Prompt), c.Options["output_format"]))
}

// body returns the API's answer with the picture of a request.
func (s *Server) body(c Call) []byte { return imageBody(s.encoded(c)) }

func imageBody(b64 string) []byte {
	return []byte(`{"created":1767225600,"data":[{"b64_json":"` + b64 + `"}],"usage":{"total_tokens":1}}`)
}

func (s *Server) compressed(w http.ResponseWriter, c Call, encoding string, named bool) {
	var b bytes.Buffer
	var compressor io.WriteCloser = gzip.NewWriter(&b)
	if encoding == "deflate" {
		compressor = zlib.NewWriter(&b)
	}
	_, _ = compressor.Write(s.body(c))
	_ = compressor.Close()
	if named {
		w.Header().Set("Content-Encoding", encoding)
	}
	send(w, b.Bytes())
}

// chat sends a picture's address in the pieces of a chat stream.
func chat(w http.ResponseWriter, address string) {
	w.Header().Set("Content-Type", "text/event-stream")
	text := "Here it is: ![picture](" + address + ") Enjoy."
	size := max(7, len(text)/50)
	for len(text) > 0 {
		piece := text[:min(size, len(text))]
		text = text[len(piece):]
		line, err := json.Marshal(map[string]any{"object": "chat.completion.chunk",
			"choices": []any{map[string]any{"index": 0, "delta": map[string]string{"content": piece}}}})
		if err != nil {
			return
		}
		fmt.Fprintf(w, "data: %s\n\n", line)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}
