// SPDX-License-Identifier: Apache-2.0

package policy

import "strings"

// shape says what a value of the file may look like: a piece of JSON Schema.
type shape map[string]any

// Patterns of what is written as text, in the regular expressions that JSON Schema and Go share. They
// are looser than the parser.
const (
	countPattern    = `^[0-9]+[kM]?$`
	bytesPattern    = `^[0-9]+(B|kB|MB|GB|KiB|MiB|GiB)?$`
	burstPattern    = `^[0-9]+(k|M|B|kB|MB|GB|KiB|MiB|GiB)?$`
	periodPattern   = `/[0-9]*(ms|s|min|h|d)$`
	durationPattern = `^(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|min|m|h|d))+$`
	namePattern     = `^[A-Za-z0-9][A-Za-z0-9_.-]{0,30}$`
	prefixPattern   = `^[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*(/[0-9]{1,3})?$`
	memberPattern   = namePattern + "|" + prefixPattern
	listenPattern   = `^(.+:)?(any|[0-9]+(-[0-9]+)?)/(tcp|udp|quic)$`
)

func textShape(pattern string) shape { return shape{"type": "string", "pattern": pattern} }

func rateShape(count string) shape {
	return textShape(strings.TrimSuffix(count, "$") + periodPattern)
}

// countShape is a whole number, or text as 2k.
func countShape(pattern string) shape {
	return shape{"type": []string{"integer", "string"}, "minimum": 1, "pattern": pattern}
}

func wholeShape(least, most int) shape {
	return shape{"type": "integer", "minimum": least, "maximum": most}
}

func boolShape() shape { return shape{"type": "boolean"} }

func wordShape[T ~string](words []T) shape { return shape{"type": "string", "enum": words} }

func listShape(items shape, most int) shape {
	s := shape{"type": "array", "items": items}
	if most > 0 {
		s["maxItems"] = most
	}
	return s
}

// fieldsShape is a mapping with these fields and no others.
func fieldsShape[T any](fields []field[T]) shape {
	properties, required := shape{}, []string{}
	for _, f := range fields {
		s := shape{"description": f.doc}
		for k, v := range f.shape {
			s[k] = v
		}
		properties[f.name] = s
		if f.required {
			required = append(required, f.name)
		}
	}
	s := shape{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func lengthsShape() shape {
	s := fieldsShape(lengthFields())
	s["minProperties"] = 1
	return s
}

// filledShape is a list that is not empty.
func filledShape(s shape) shape {
	s["minItems"] = 1
	return s
}

func limitsShape(most int) shape { return listShape(shape{"$ref": "#/$defs/limit"}, most) }
