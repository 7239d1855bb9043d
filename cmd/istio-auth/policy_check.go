package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/analyze"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

func policyCheckCommand() *cobra.Command {
	var mesh meshFlags
	var output string
	failOn := "error"
	var world worldFlags
	command := &cobra.Command{
		Use:   "check FILE|FOLDER|-...",
		Short: "Read policies strictly, and say what they will not do",
		Long: `check reads policies as the manager does. It prints what the manager would
refuse, with file, line and column, and findings: what a policy will not do, or
will do beyond what it seems to say. Each has a stable code, in brackets;
docs/POLICY.md explains them. The file "-" is what comes in, also as kubectl prints
it.

It exits 0 if nothing is refused and no finding is an error, and 1 otherwise.`,
		Example: "  istio-auth policy check policies/\n" +
			"  istio-auth policy check --trust-domain prod.example --fail-on warning -o json allow.yaml\n" +
			"  istio-auth policy check --tcp-port 3306 database.yaml\n" +
			"  kubectl get authorizationpolicies,requestauthentications -A -o yaml | istio-auth policy check -",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: policyFiles,
		RunE: func(cmd *cobra.Command, paths []string) error {
			list, err := checkPolicies(&mesh, &world, paths, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if err := printRemarks(cmd, list, output); err != nil {
				return err
			}
			return failed(list, failOn)
		},
	}
	mesh.add(command)
	command.Flags().UintSliceVar(&world.ports, "tcp-port", nil, "ports on which the workloads talk TCP, of which no HTTP can be told")
	command.Flags().BoolVar(&world.plaintext, "plaintext", false, "some workload also listens to peers without a certificate")
	completeWith(command, "tcp-port")
	addOutput(command, &output)
	addChoice(command, "fail-on", "the least severity that fails: error or warning", choice{&failOn, []string{"error", "warning"}})
	return command
}

// worldFlags say what is around the policies that are checked.
type worldFlags struct {
	ports     []uint
	plaintext bool
}

// A remark is a finding, or a refusal, as it is told to the author.
type remark struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	File     string `json:"file,omitempty"` // of a refusal
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Kind     string `json:"kind,omitempty"` // of a finding
	Object   string `json:"object,omitempty"`
	Field    string `json:"field,omitempty"`
	Message  string `json:"message"`
}

// String is "severity: where: field: message (code)".
func (r remark) String() string {
	where := r.Kind + " " + r.Object
	if r.File != "" {
		where = r.File
		for _, n := range []int{r.Line, r.Column} {
			if n > 0 {
				where += ":" + strconv.Itoa(n)
			}
		}
	}
	if r.Field != "" {
		where += ": " + r.Field
	}
	if where = strings.TrimSpace(where); where != "" {
		where += ": "
	}
	return fmt.Sprintf("%s: %s%s (%s)", r.Severity, where, r.Message, r.Code)
}

// failed is an error where there is a remark of that severity or a worse one.
func failed(list []remark, least string) error {
	counts := map[string]int{}
	for _, r := range list {
		counts[r.Severity]++
	}
	var said []string
	for _, severity := range []string{"error", "warning"} {
		switch n := counts[severity]; {
		case n == 1:
			said = append(said, "1 "+severity)
		case n > 1:
			said = append(said, fmt.Sprintf("%d %ss", n, severity))
		}
	}
	if counts["error"] == 0 && (least == "error" || counts["warning"] == 0) {
		return nil
	}
	return errors.New(strings.Join(said, ", "))
}

// checkPolicies returns what there is to say. Of what is refused nothing else is
// said, and nothing of what is around it.
func checkPolicies(mesh *meshFlags, around *worldFlags, paths []string, stdin io.Reader) ([]remark, error) {
	target, err := mesh.target()
	if err != nil {
		return nil, err
	}
	objects, err := readPolicies(paths, stdin)
	if err != nil {
		return refusals(err)
	}
	resolved, unresolved := access.Resolve(objects, mesh.root)
	objects.Policies = resolved
	world := analyze.Mesh{
		TrustDomain: target.TrustDomain, Aliases: target.Aliases, Foreign: target.Foreign,
		RootNamespace: target.RootNamespace, Providers: target.Providers, Plaintext: around.plaintext,
	}
	if world.Workloads, err = speakers(objects.Objects, around.ports); err != nil {
		return nil, err
	}
	var list []remark
	for _, err := range each(unresolved) {
		if u, ok := errors.AsType[*access.Unresolved](err); ok {
			list = append(list, remark{
				Code: u.Reason, Severity: analyze.Error.String(), Kind: access.GrantKind, Object: u.Namespace + "/" + u.Name,
				Field: "spec.roleRef", Message: "it allows nothing: " + u.Detail,
			})
		}
	}
	for _, f := range analyze.Check(objects.Objects, world) {
		if r := remarkOf(f); !slices.Contains(list, r) { // a grant says it for each permission
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b remark) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object))
	})
	return list, nil
}

// speakers are workloads that talk TCP on ports, one for each selector, so that
// every policy selects one. Nil without ports: nothing is known of workloads.
func speakers(objects parse.Objects, ports []uint) ([]analyze.Workload, error) {
	var tcp []uint16
	for _, port := range ports {
		if port == 0 || port > 65535 {
			return nil, fmt.Errorf("--tcp-port: want ports from 1 to 65535, have %d", port)
		}
		tcp = append(tcp, uint16(port))
	}
	var list []analyze.Workload
	add := func(namespace string, labels map[string]string) {
		list = append(list, analyze.Workload{Namespace: namespace, Name: "any", Labels: labels, TCP: tcp})
	}
	if tcp == nil {
		return nil, nil
	}
	for _, p := range objects.Policies {
		add(p.Namespace, p.Selector)
	}
	for _, a := range objects.Requests {
		add(a.Namespace, a.Selector)
	}
	for _, a := range objects.Peers {
		add(a.Namespace, a.Selector)
	}
	return list, nil
}

// each takes an error apart that joins others.
func each(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []error
		for _, e := range joined.Unwrap() {
			list = append(list, each(e)...)
		}
		return list
	}
	return []error{err}
}

// refusals are remarks, where they are about what is in files.
func refusals(err error) ([]remark, error) {
	var list []remark
	for _, err := range each(err) {
		e, ok := errors.AsType[*parse.Error](err)
		if _, gone := errors.AsType[*fs.PathError](err); gone || !ok && errors.Is(err, errNoPolicy) {
			return nil, err
		}
		if !ok {
			list = append(list, remark{Code: "duplicate-policy", Severity: analyze.Error.String(), Message: err.Error()})
			continue
		}
		list = append(list, remark{
			Code: e.Reason, Severity: analyze.Error.String(), File: e.Name, Line: e.Line, Column: e.Column, Field: e.Field, Message: e.Detail,
		})
	}
	return list, nil
}

// remarkOf tells a finding in the author's own words: the policy that an
// AccessGrant or an AccessRule has become has fields of its own.
func remarkOf(f analyze.Finding) remark {
	r := remark{
		Code: string(f.Code), Severity: f.Severity.String(), Kind: f.Kind, Object: f.Object, Field: f.Field, Message: f.Message,
	}
	r.Kind, r.Object, _ = strings.Cut(authored(f.Kind+" "+f.Object), " ")
	switch r.Kind {
	case access.RuleKind:
		r.Field = ruleFields.Replace(clauses.ReplaceAllString(f.Field, "$1$3"))
	case access.GrantKind:
		r.Field = grantField(f.Field)
	}
	return r
}

var (
	clauses = regexp.MustCompile(`((?:from|to)\[\d+\])\.(source|operation)(\.|$)`)
	inRule  = regexp.MustCompile(`^spec\.rules\[(\d+)\]\.?`)

	ruleFields  = strings.NewReplacer("spec.rules[0].from[", "spec.sources[", "spec.rules[0].to[", "spec.operations[", "spec.rules[0].", "spec.", "spec.rules[0]", "spec")
	grantFields = strings.NewReplacer("from[", "subjects[", "to[", "operations[")
)

// grantField: a rule is a permission of the role, for the subjects of the grant.
func grantField(field string) string {
	match := inRule.FindStringSubmatch(field)
	if match == nil {
		return field
	}
	rest := grantFields.Replace(clauses.ReplaceAllString(field[len(match[0]):], "$1$3"))
	if strings.HasPrefix(rest, "subjects[") {
		return "spec." + rest
	}
	return strings.TrimSuffix("spec.roleRef: permissions["+match[1]+"]."+rest, ".")
}

func printRemarks(cmd *cobra.Command, list []remark, output string) error {
	if output == "json" {
		if list == nil {
			list = []remark{}
		}
		return printJSON(cmd, list)
	}
	for _, r := range list {
		fmt.Fprintln(cmd.OutOrStdout(), r)
	}
	if len(list) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "nothing to say")
	}
	return nil
}
