package imageapi

import (
	"strings"
)

// role is what the value of a key means.
type role int

const (
	roleNone      role = iota
	roleAny            // a picture in any form, or what contains one
	roleURL            // the same; a path is taken as a URL
	rolePicture        // the same; any text is base64
	roleContainer      // contains pictures
	roleText           // text that may contain a picture, or what contains such text
	roleError          // the API's error
	roleProblem        // a text or an object about an error where there is no picture
	roleMessage        // the same if it is a text, else a message of a chat
	roleCode
	roleType
	roleSuccess
	roleStatus
	roleFinish  // why a chat ended
	rolePartial // its presence makes the picture of an event a partial one
	roleChat    // contains a chat's messages
	roleUsage
	roleID
)

// roles are those of the keys, wherever they are below the keys listed here. What has no role is not looked at: a prompt, a thumbnail, an input.
var roles = map[string]role{
	"b64_json": rolePicture, "b64": rolePicture, "base64": rolePicture, "image_base64": rolePicture, "image_b64": rolePicture,
	"b64_image": rolePicture, "imagebase64": rolePicture,
	"url": roleURL, "image_url": roleURL, "imageurl": roleURL, "output_url": roleURL, "image_urls": roleURL, "urls": roleURL,
	"data": roleAny, "image": roleAny, "images": roleAny, "output": roleAny, "outputs": roleAny, "result": roleAny, "results": roleAny,
	"choices": roleChat, "delta": roleText, "response": roleContainer, "item": roleContainer, "candidates": roleChat,
	"inlinedata": roleContainer, "inline_data": roleContainer, "artifacts": roleContainer,
	"content": roleText, "parts": roleText, "text": roleText, "refusal": roleText,
	"error": roleError, "errors": roleError,
	"usage": roleUsage, "usagemetadata": roleUsage,
}

// topRoles are those of keys of the whole document. They come before roles.
var topRoles = map[string]role{
	"message": roleMessage, "msg": roleProblem, "detail": roleProblem, "error_msg": roleProblem, "error_message": roleProblem,
	"errmsg": roleProblem, "err_msg": roleProblem, "reason": roleProblem,
	"code": roleCode, "error_code": roleCode, "errcode": roleCode, "statuscode": roleCode, "type": roleType, "success": roleSuccess, "ok": roleSuccess,
	"status": roleStatus, "partial_image_index": rolePartial,
	"id": roleID, "request_id": roleID, "requestid": roleID, "task_id": roleID, "taskid": roleID, "gen_id": roleID,
}

func roleOf(key string, depth int) role {
	key = strings.ToLower(key)
	if r, ok := topRoles[key]; ok && depth == 1 {
		return r
	}
	switch key {
	case "message": // of a chat
		return roleContainer
	case "finish_reason", "finishreason":
		return roleFinish
	}
	return roles[key]
}
