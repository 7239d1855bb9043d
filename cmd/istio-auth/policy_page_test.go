package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/analyze"
)

const policyPage = "../../docs/POLICY.md"

// TestPolicyPage holds docs/POLICY.md to the programs: its examples are read and
// have no finding, and its tables are those of the language.
func TestPolicyPage(t *testing.T) {
	text, err := os.ReadFile(policyPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	t.Run("examples", func(t *testing.T) { pageExamples(t, page) })
	if count := fmt.Sprintf("%d scripts with %d decisions", istioScripts, istioDecisions); !strings.Contains(page, count) {
		t.Errorf("the page does not say %q", count)
	}
	t.Run("findings", func(t *testing.T) {
		var want []string
		for _, code := range analyze.Codes() {
			want = append(want, string(code))
		}
		sameWords(t, firstColumn(section(t, page, "## Findings")), want)
	})
	t.Run("reasons", func(t *testing.T) {
		source, err := os.ReadFile("../../rbac/eval/eval.go")
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, match := range regexp.MustCompile(`Reason = "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
			want = append(want, match[1])
		}
		sameWords(t, firstColumn(section(t, page, "## How a request is decided"))[:len(want)], want)
	})
	t.Run("sources", func(t *testing.T) {
		pageFields(t, section(t, page, "## Sources"), (&securityv1beta1.Source{}).ProtoReflect().Descriptor(), "from: [{source: {%s: [%q]}}]")
	})
	t.Run("operations", func(t *testing.T) {
		pageFields(t, section(t, page, "## Operations"), (&securityv1beta1.Operation{}).ProtoReflect().Descriptor(), "to: [{operation: {%s: [%q]}}]")
	})
	t.Run("conditions", func(t *testing.T) { pageConditions(t, section(t, page, "## Conditions")) })
	t.Run("end users", func(t *testing.T) {
		var want []string
		fields := (&securityv1beta1.JWTRule{}).ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			if name := fields.Get(i).JSONName(); name != "spaceDelimitedClaims" { // not supported
				want = append(want, name)
			}
		}
		var got []string
		for _, row := range rows(section(t, page, "## End users")) {
			for _, match := range quoted.FindAllStringSubmatch(row[0], -1) {
				got = append(got, match[1])
			}
		}
		sameWords(t, got, want)
	})
}

func pageExamples(t *testing.T, page string) {
	var all access.Objects
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1)
	if got, want := len(blocks), 6; got != want {
		t.Errorf("%d examples, want %d", got, want)
	}
	for i, block := range blocks {
		o, err := access.Read(fmt.Sprintf("example %d", i), []byte(block[1]))
		if err != nil {
			t.Errorf("%v\n%s", err, block[1])
		}
		all.Add(o)
	}
	policies, err := access.Resolve(all, "istio-system")
	if err != nil {
		t.Error(err)
	}
	all.Policies = policies
	target, err := (&meshFlags{trustDomain: "cluster.local"}).target()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range analyze.Check(all.Objects, analyze.Mesh{TrustDomain: target.TrustDomain, Providers: []string{"opa"}}) {
		if f.Severity > analyze.Note {
			t.Error(f)
		}
	}
}

// section is what stands beneath a heading.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no section %q", heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

var quoted = regexp.MustCompile("`([^`]+)`")

// rows are those of the tables, without their heads.
func rows(text string) [][]string {
	var list [][]string
	for line := range strings.Lines(text) {
		if cells := strings.Split(strings.Trim(line, "| \n"), " | "); strings.HasPrefix(line, "| `") {
			list = append(list, cells)
		}
	}
	return list
}

// firstColumn is the first word of each row.
func firstColumn(text string) []string {
	var list []string
	for _, row := range rows(text) {
		list = append(list, quoted.FindStringSubmatch(row[0])[1])
	}
	return list
}

func sameWords(t *testing.T, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("the page has %q, want %q", got, want)
	}
}

// pageFields: the table has each field that is no negation, with a value of it.
func pageFields(t *testing.T, text string, of protoreflect.MessageDescriptor, rule string) {
	var want []string
	for i := range of.Fields().Len() {
		if name := of.Fields().Get(i).JSONName(); !strings.HasPrefix(name, "not") {
			want = append(want, name)
		}
	}
	sameWords(t, firstColumn(text), want)
	for _, row := range rows(text) {
		field, value := quoted.FindStringSubmatch(row[0])[1], quoted.FindStringSubmatch(row[1])[1]
		negation := "not" + strings.ToUpper(field[:1]) + field[1:]
		for _, name := range []string{field, negation} {
			if err := readRule(fmt.Sprintf(rule, name, value)); err != nil {
				t.Error(err)
			}
		}
	}
}

// pageConditions: each key takes its value, and is of TCP where the table says
// so. That no key is missing, istio-conditions.txtar holds.
func pageConditions(t *testing.T, text string) {
	list := rows(text)
	if got, want := len(list), 15; got != want {
		t.Errorf("%d keys, want %d", got, want)
	}
	for _, row := range list {
		key, value := quoted.FindStringSubmatch(row[0])[1], quoted.FindStringSubmatch(row[1])[1]
		o, err := read(fmt.Sprintf("when: [{key: %q, values: [%q], notValues: [%q]}]", key, value, value))
		if err != nil {
			t.Error(err)
			continue
		}
		if ofTCP := !o.Policies[0].Rules[0].When[0].Attribute.OfHTTP(); ofTCP != (row[2] == "yes") {
			t.Errorf("%s is of TCP: %v, the page says %s", key, ofTCP, row[2])
		}
	}
}

func readRule(rule string) error {
	_, err := read(rule)
	return err
}

func read(rule string) (access.Objects, error) {
	return access.Read(rule, []byte("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a, namespace: shop}, spec: {rules: [{"+rule+"}]}}"))
}
