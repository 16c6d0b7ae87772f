// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
)

// Schema is the file format as a JSON Schema (draft 2020-12), for editors. It comes from the tables that the
// parser reads by. It knows fields, types and the form of values; whether a policy makes sense, only Parse does.
func Schema() []byte {
	limit := fieldsShape(limitFields())
	var oneKind []shape
	for _, kind := range kinds() {
		oneKind = append(oneKind, shape{"required": []Kind{kind}})
	}
	limit["oneOf"] = oneKind
	schema := fieldsShape(policyFields())
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "synward policy"
	schema["$defs"] = shape{"service": fieldsShape(serviceFields()), "limit": limit}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		return nil // Cannot be: a shape holds text, numbers and lists of them.
	}
	return text.Bytes()
}
