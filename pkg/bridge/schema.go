package bridge

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"imagetasks/pkg/pattern"
)

// isText reports whether a column holds text.
func (c CatalogColumn) isText() bool {
	return slices.Contains([]string{"text", "varchar", "bpchar", "citext"}, c.Base)
}

func (c CatalogColumn) isWord() bool { return c.isText() || c.Base == "enum" }

// isState reports whether a column can show the state of a task: by words, or by codes such as 0, 1 and 2.
func (c CatalogColumn) isState() bool { return c.isWord() || c.isInteger() || c.Base == "char" }

func (c CatalogColumn) isBool() bool { return c.Base == "bool" }

func (c CatalogColumn) isInteger() bool {
	return slices.Contains([]string{"int2", "int4", "int8"}, c.Base)
}

func (c CatalogColumn) isNumber() bool {
	return c.isInteger() || slices.Contains([]string{"numeric", "float4", "float8"}, c.Base)
}

func (c CatalogColumn) isJSON() bool { return c.Base == "json" || c.Base == "jsonb" }

func (c CatalogColumn) isTime() bool { return c.Base == "timestamptz" || c.Base == "timestamp" }

func (c CatalogColumn) isTextArray() bool { return c.Base == "_text" || c.Base == "_varchar" }

// isID reports whether the text of the column's values is the same whatever the settings of a session are.
func (c CatalogColumn) isID() bool { return c.isText() || c.isInteger() || c.Base == "uuid" }

// needsValue reports whether an insert must give the column a value.
func (c CatalogColumn) needsValue() bool {
	return c.NotNull && c.Default == "" && !c.Identity && !c.Generated
}

// isUnique reports whether the column alone is unique.
func (t CatalogTable) isUnique(column string) bool {
	return slices.ContainsFunc(t.Unique, func(columns []string) bool { return len(columns) == 1 && columns[0] == column })
}

// reference returns what a column refers to.
func (t CatalogTable) reference(column string) (ForeignKey, bool) {
	for _, key := range t.Keys {
		if len(key.Columns) == 1 && key.Columns[0] == column {
			return key, true
		}
	}
	return ForeignKey{}, false
}

var sqlText = pattern.New(`'((?:[^']|'')*)'`)

// quotedTexts returns the texts in single quotation marks of an SQL expression.
func quotedTexts(expression string) []string {
	var out []string
	for _, m := range sqlText().FindAllStringSubmatch(expression, -1) {
		out = append(out, strings.ReplaceAll(m[1], "''", "'"))
	}
	return out
}

// allowed returns the words that an enum or a CHECK of a list of texts or whole numbers allows; nil: any.
func (t CatalogTable) allowed(c CatalogColumn) []string {
	if c.Base == "enum" {
		return c.Labels
	}
	if c.isInteger() {
		return t.allowedNumbers(c)
	}
	name := regexp.QuoteMeta(quoteName(c.Name))
	// As pg_get_constraintdef writes "status in ('a', 'b')" and "status = 'a'".
	list := regexp.MustCompile(`^CHECK \(+` + name + `\)?(::text)? (= ANY \(+ARRAY\[|= ')`)
	for _, check := range t.Checks {
		if list.MatchString(check) && !strings.Contains(check, " AND ") {
			return quotedTexts(check)
		}
	}
	return nil
}

// allowedNumbers is allowed for whole numbers.
func (t CatalogTable) allowedNumbers(c CatalogColumn) []string {
	// As pg_get_constraintdef writes "status in (0, 1)" and "status between 0 and 3".
	name := regexp.QuoteMeta(quoteName(c.Name))
	list := regexp.MustCompile(`^CHECK \(+` + name + ` = ANY \(+ARRAY\[([^]]*)\]`)
	between := regexp.MustCompile(`^CHECK \(+` + name + ` >= '?(-?[0-9]+)'?\S*\)* AND \(*` + name + ` <= '?(-?[0-9]+)`)
	for _, check := range t.Checks {
		if m := list.FindStringSubmatch(check); m != nil && !strings.Contains(check, " AND ") {
			return wholeNumber().FindAllString(intType().ReplaceAllString(m[1], ""), -1)
		}
		if m := between.FindStringSubmatch(check); m != nil && strings.Count(check, " AND ") == 1 {
			first, err := strconv.Atoi(m[1])
			last, err2 := strconv.Atoi(m[2])
			if err != nil || err2 != nil || last-first > 30 {
				continue
			}
			var out []string
			for n := first; n <= last; n++ {
				out = append(out, strconv.Itoa(n))
			}
			return out
		}
	}
	return nil
}

var (
	wholeNumber = pattern.New(`-?[0-9]+`)
	intType     = pattern.New(`::int[0-9]+|::(small|big)?int(eger)?`)
)

// defaultWord returns the text that a column has by default.
func (c CatalogColumn) defaultWord() string {
	if c.isInteger() {
		return wholeNumber().FindString(strings.Trim(c.Default, "'()"))
	}
	if texts := quotedTexts(c.Default); len(texts) > 0 && strings.HasPrefix(c.Default, "'") {
		return texts[0]
	}
	return ""
}

// FormOf returns where a JSON text holds http URLs, with "{url}" in their place, the first element of each array, and nothing else; "" where it holds
// none.
func FormOf(text []byte) string {
	var value any
	if json.Unmarshal(text, &value) != nil {
		return ""
	}
	form, ok := urlForm(value)
	if !ok {
		return ""
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if enc.Encode(form) != nil {
		return ""
	}
	return strings.TrimSpace(out.String())
}

func urlForm(value any) (any, bool) {
	switch value := value.(type) {
	case string:
		if strings.HasPrefix(value, "http://") || strings.HasPrefix(value, "https://") {
			return "{url}", true
		}
	case []any:
		if len(value) > 0 {
			form, ok := urlForm(value[0])
			return []any{form}, ok
		}
	case map[string]any:
		out := map[string]any{}
		for name, member := range value {
			if form, ok := urlForm(member); ok {
				out[name] = form
			}
		}
		return out, len(out) > 0
	}
	return nil, false
}

func isJSON(text string) bool { return json.Valid([]byte(text)) }
