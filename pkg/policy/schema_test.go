// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaFile = "testdata/schema.json"

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate holds a text against the schema, read by YAML alone.
func validate(t fataler, schema *jsonschema.Schema, text []byte) error {
	var doc any
	if err := yaml.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &doc); err != nil {
		return err
	}
	asJSON, err := json.Marshal(doc)
	if err != nil {
		t.Fatalf("%v", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return schema.Validate(value)
}

func TestSchemaFile(t *testing.T) {
	checkGolden(t, schemaFile, string(Schema()))
}

// What the parser accepts, the schema accepts; a wrong file whose fault is one of form, it does not.
func TestSchemaAgreesWithParser(t *testing.T) {
	schema := compileSchema(t)
	for _, path := range testPolicies(t, "testdata/good/*.yaml") {
		if err := validate(t, schema, readTest(t, path)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	shapes := 0
	for _, path := range testPolicies(t, "testdata/bad/*.yaml") {
		if !strings.HasPrefix(filepath.Base(path), "shape-") {
			continue
		}
		shapes++
		if validate(t, schema, readTest(t, path)) == nil {
			t.Errorf("%s fits the schema", path)
		}
	}
	if shapes < 30 {
		t.Errorf("only %d files are wrong by their form", shapes)
	}
}
