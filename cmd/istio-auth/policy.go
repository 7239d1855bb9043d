package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/analyze"
	"github.com/istio-auth/istio-auth/rbac/eval"
)

func policyCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "policy",
		Short: "Check policies, and ask what they decide, without a cluster",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.AddCommand(policyCheckCommand(), policyExplainCommand())
	return command
}

// meshFlags say in what mesh policies are read.
type meshFlags struct {
	trustDomain, root           string
	aliases, foreign, providers []string
}

func (m *meshFlags) add(command *cobra.Command) {
	f := command.Flags()
	f.StringVar(&m.trustDomain, "trust-domain", "cluster.local", "the mesh's trust domain")
	f.StringVar(&m.root, "root-namespace", "istio-system", "the namespace whose policies apply to the whole mesh")
	f.StringSliceVar(&m.aliases, "alias", nil, "other names of the trust domain")
	f.StringSliceVar(&m.foreign, "foreign", nil, "trust domains that are accepted beside it")
	f.StringSliceVar(&m.providers, "provider", nil, "the providers that CUSTOM policies may ask")
}

// target is a workload of the mesh.
func (m *meshFlags) target() (rbac.Target, error) {
	t := rbac.Target{RootNamespace: m.root, Providers: m.providers}
	var err error
	if t.TrustDomain, err = spiffeid.TrustDomainFromString(m.trustDomain); err != nil {
		return t, fmt.Errorf("--trust-domain: %w", err)
	}
	for _, name := range m.aliases {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return t, fmt.Errorf("--alias: %w", err)
		}
		t.Aliases = append(t.Aliases, td)
	}
	for _, name := range m.foreign {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return t, fmt.Errorf("--foreign: %w", err)
		}
		t.Foreign = append(t.Foreign, td)
	}
	return t, nil
}

// readPolicies reads files, and of folders those that end in .yaml, .yml or
// .json.
func readPolicies(paths []string) (access.Objects, error) {
	var all access.Objects
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if name != path && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
				return nil
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			o, err := access.Read(name, data)
			if err != nil {
				return err
			}
			all.Add(o)
			return nil
		})
		if err != nil {
			return all, err
		}
	}
	if len(all.Keys()) == 0 {
		return all, fmt.Errorf("no policy in %s", strings.Join(paths, ", "))
	}
	return all, nil
}

func policyCheckCommand() *cobra.Command {
	var mesh meshFlags
	var output string
	command := &cobra.Command{
		Use:   "check FILE|FOLDER...",
		Short: "Read policies strictly, and say what they will not do",
		Long: `check reads policies as the manager does, refuses what it would refuse, and
prints findings: what a policy will not do, or will do beyond what it seems to
say. Each has a stable code.

It exits 0 if nothing is refused and no finding is an error, and 1 otherwise.`,
		Example: "  istio-auth policy check policies/\n  istio-auth policy check --trust-domain prod.example -o json allow.yaml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			findings, err := checkPolicies(&mesh, paths)
			if err != nil {
				return err
			}
			failed := 0
			for _, f := range findings {
				if f.Severity == analyze.Error {
					failed++
				}
			}
			if err := printFindings(cmd, findings, output); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d errors", failed)
			}
			return nil
		},
	}
	mesh.add(command)
	command.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return command
}

func checkPolicies(mesh *meshFlags, paths []string) ([]analyze.Finding, error) {
	target, err := mesh.target()
	if err != nil {
		return nil, err
	}
	objects, err := readPolicies(paths)
	if err != nil {
		return nil, err
	}
	resolved, unresolved := access.Resolve(objects, mesh.root)
	objects.Policies = resolved
	findings := analyze.Check(objects.Objects, analyze.Mesh{
		TrustDomain: target.TrustDomain, Aliases: target.Aliases, Foreign: target.Foreign,
		RootNamespace: target.RootNamespace, Providers: target.Providers,
	})
	return findings, unresolved
}

func printFindings(cmd *cobra.Command, findings []analyze.Finding, output string) error {
	if output == "json" {
		type line struct {
			Code     analyze.Code `json:"code"`
			Severity string       `json:"severity"`
			Kind     string       `json:"kind"`
			Object   string       `json:"object"`
			Field    string       `json:"field,omitempty"`
			Message  string       `json:"message"`
		}
		lines := []line{}
		for _, f := range findings {
			lines = append(lines, line{f.Code, f.Severity.String(), f.Kind, f.Object, f.Field, f.Message})
		}
		return printJSON(cmd, lines)
	}
	for _, f := range findings {
		fmt.Fprintln(cmd.OutOrStdout(), f)
	}
	if len(findings) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "nothing to say")
	}
	return nil
}

// askFlags are the request that explain is about.
type askFlags struct {
	namespace, from, method, target, host, claims, sni string
	source, remote, destination                        string
	labels                                             map[string]string
	headers                                            []string
	tcp, plaintext                                     bool
}

func (a *askFlags) add(command *cobra.Command) {
	f := command.Flags()
	f.StringVarP(&a.namespace, "namespace", "n", "default", "the workload's namespace")
	f.StringToStringVarP(&a.labels, "labels", "l", nil, "the workload's labels, as app=web,version=v1")
	f.BoolVar(&a.plaintext, "plaintext", false, "the workload also listens to peers without a certificate")
	f.StringVar(&a.from, "from", "", "the peer's SPIFFE ID; empty: it has no certificate")
	f.BoolVar(&a.tcp, "tcp", false, "a TCP connection, of which nothing is known but its ends")
	f.StringVar(&a.method, "method", "GET", "the HTTP method")
	f.StringVar(&a.target, "path", "/", "the request's path, as the client sends it")
	f.StringVar(&a.host, "host", "example.test", "the authority")
	f.StringArrayVar(&a.headers, "header", nil, "a header line, as \"x-role: admin\"; may be given again")
	f.StringVar(&a.claims, "claims", "", "the payload of the end user's verified token, as JSON")
	f.StringVar(&a.source, "source-ip", "192.0.2.1", "the address at the other end of the connection")
	f.StringVar(&a.remote, "remote-ip", "", "the client's address as trusted proxies tell it; empty: --source-ip")
	f.StringVar(&a.destination, "destination", "198.51.100.1:8080", "our end of the connection")
	f.StringVar(&a.sni, "sni", "", "the TLS server name that the client asked for")
}

// request is what policy sees. The error is [rbac.ErrNotCanonical] where the
// sidecar answers 400 before policy is asked.
func (a *askFlags) request() (rbac.Request, error) {
	r := rbac.Request{Protocol: rbac.HTTP, Method: a.method, Host: a.host, ServerName: a.sni, Headers: map[string][]string{}}
	if a.tcp {
		r.Protocol = rbac.TCP
	}
	var err error
	if a.from != "" {
		if r.Peer.ID, err = spiffeid.FromString("spiffe://" + strings.TrimPrefix(a.from, "spiffe://")); err != nil {
			return r, fmt.Errorf("--from: %w", err)
		}
	}
	if r.Source, err = netip.ParseAddr(a.source); err != nil {
		return r, fmt.Errorf("--source-ip: %w", err)
	}
	if r.Remote = r.Source; a.remote != "" {
		if r.Remote, err = netip.ParseAddr(a.remote); err != nil {
			return r, fmt.Errorf("--remote-ip: %w", err)
		}
	}
	if r.Destination, err = netip.ParseAddrPort(a.destination); err != nil {
		return r, fmt.Errorf("--destination: %w", err)
	}
	for _, line := range a.headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return r, fmt.Errorf("--header %q: want \"name: value\"", line)
		}
		name = strings.ToLower(strings.TrimSpace(name))
		r.Headers[name] = append(r.Headers[name], strings.TrimSpace(value))
	}
	if a.claims != "" {
		r.Token = &rbac.Token{}
		if err := json.Unmarshal([]byte(a.claims), &r.Token.Claims); err != nil {
			return r, fmt.Errorf("--claims: %w", err)
		}
		for _, key := range []string{"scope", "permission"} { // as a sidecar splits them
			if text, ok := r.Token.Claims[key].(string); ok {
				var words []any
				for word := range strings.FieldsSeq(text) {
					words = append(words, word)
				}
				r.Token.Claims[key] = words
			}
		}
	}
	if !a.tcp {
		r.Path, err = rbac.CanonicalPath(a.target)
	}
	return r, err
}

func policyExplainCommand() *cobra.Command {
	var mesh meshFlags
	var ask askFlags
	var output, expect string
	command := &cobra.Command{
		Use:   "explain FILE|FOLDER...",
		Short: "Say what policies decide about a request, and why",
		Long: `explain decides one request by the policies in files, as every sidecar would: the
verdict, the rule and the fields that decided, and for a denial the nearest rule
that would have allowed it and what was missing.

It exits 0 whatever the verdict, or, with --expect, 1 if it is another.`,
		Example: "  istio-auth policy explain policies/ -n shop -l app=web --from cluster.local/ns/front/sa/web --path /admin\n" +
			"  istio-auth policy explain policies/ -n shop --from cluster.local/ns/a/sa/b --method POST --expect denied",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			if expect != "" && expect != "allowed" && expect != "denied" {
				return fmt.Errorf("--expect %q: want allowed or denied", expect)
			}
			answer, err := explainPolicies(&mesh, &ask, paths)
			if err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(cmd, answer)
			} else {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), answer)
			}
			if got := map[bool]string{true: "allowed", false: "denied"}[answer.Allowed]; err == nil && expect != "" && got != expect {
				return fmt.Errorf("%s, expected %s", got, expect)
			}
			return err
		},
	}
	mesh.add(command)
	ask.add(command)
	command.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	command.Flags().StringVar(&expect, "expect", "", "allowed or denied: fail if it is not")
	return command
}

// An answer is an explanation, and what it would be with the policies of a dry
// run, where that is another.
type answer struct {
	eval.Explanation
	DryRun *eval.Explanation `json:"dryRun,omitempty"`
	// Unresolved says which grants allow nothing, and why.
	Unresolved string `json:"unresolved,omitempty"`
}

// String is for people.
func (a answer) String() string {
	text := a.Explanation.String()
	if a.Unresolved != "" {
		text += "\n" + a.Unresolved
	}
	if a.DryRun != nil {
		text += "\nwith the policies of the dry run " + a.DryRun.String()
	}
	return text
}

func explainPolicies(mesh *meshFlags, ask *askFlags, paths []string) (answer, error) {
	target, err := mesh.target()
	if err != nil {
		return answer{}, err
	}
	target.Namespace, target.Labels, target.Plaintext = ask.namespace, ask.labels, ask.plaintext
	objects, err := readPolicies(paths)
	if err != nil {
		return answer{}, err
	}
	request, err := ask.request()
	if errors.Is(err, rbac.ErrNotCanonical) {
		return answer{Explanation: eval.Explanation{Verdict: eval.Verdict{Reason: "not-canonical"}}}, nil
	}
	if err != nil {
		return answer{}, err
	}
	resolved, unresolved := access.Resolve(objects, mesh.root)
	set := rbac.Select(resolved, target).WithTokens(objects.Requests, target)
	a := answer{Explanation: eval.Explain(set, request)}
	if unresolved != nil {
		a.Unresolved = unresolved.Error()
	}
	if trial, ok := set.Trial(); ok {
		dry := eval.Explain(trial, request)
		a.DryRun = &dry
	}
	return a, nil
}
