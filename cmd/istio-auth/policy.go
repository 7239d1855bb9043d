package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/rbac/access"
	"github.com/istio-auth/istio-auth/rbac/parse"
)

func policyCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "policy",
		Short: "Check policies, and ask what they decide, without a cluster",
		Long: `policy works on files alone: "check" says what policies will not do, "explain"
what they decide about one request. docs/POLICY.md has the language.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.AddCommand(policyCheckCommand(), policyExplainCommand())
	return command
}

// A choice is a flag that takes one of a few words. What word holds is its default.
type choice struct {
	word  *string
	words []string
}

func (c choice) String() string {
	if c.word == nil {
		return ""
	}
	return *c.word
}

func (c choice) Type() string { return "string" }

func (c choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("want %s", strings.Join(c.words, " or "))
	}
	*c.word = word
	return nil
}

// addChoice adds a flag of which the shell completes the words.
func addChoice(command *cobra.Command, name, usage string, c choice) {
	command.Flags().Var(c, name, usage)
	completeWith(command, name, c.words...)
}

// addOutput adds --output.
func addOutput(command *cobra.Command, output *string) {
	*output = "text"
	c := choice{output, []string{"text", "json"}}
	command.Flags().VarP(c, "output", "o", "text or json")
	completeWith(command, "output", c.words...)
}

func completeWith(command *cobra.Command, name string, words ...string) {
	err := command.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // there is no such flag, or it has words already
	}
}

// policyFiles completes what policies are read from.
func policyFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
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
	for _, name := range []string{"trust-domain", "root-namespace", "alias", "foreign", "provider"} {
		completeWith(command, name)
	}
}

// target is a workload of the mesh.
func (m *meshFlags) target() (rbac.Target, error) {
	t := rbac.Target{RootNamespace: m.root, Providers: m.providers}
	var err error
	if t.TrustDomain, err = spiffeid.TrustDomainFromString(m.trustDomain); err != nil {
		return t, fmt.Errorf("--trust-domain: %w", err)
	}
	if t.Aliases, err = trustDomains("--alias", m.aliases); err != nil {
		return t, err
	}
	t.Foreign, err = trustDomains("--foreign", m.foreign)
	return t, err
}

func trustDomains(flag string, names []string) ([]spiffeid.TrustDomain, error) {
	var list []spiffeid.TrustDomain
	for _, name := range names {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		list = append(list, td)
	}
	return list, nil
}

// A reader reads policies from files.
type reader struct {
	stdin   io.Reader // what "-" is
	all     access.Objects
	refused []error
	seen    map[string]bool   // files
	in      map[string]string // the file of each object
}

// readPolicies reads files, and of folders those that end in .yaml, .yml or
// .json. Its error joins what is refused in each of them.
func readPolicies(paths []string, stdin io.Reader) (access.Objects, error) {
	r := &reader{stdin: stdin, seen: map[string]bool{}, in: map[string]string{}}
	for _, path := range paths {
		if path == "-" {
			r.file(path)
			continue
		}
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if wanted := name == path || slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)); wanted && !d.IsDir() {
				r.file(name)
			}
			return nil
		})
		if err != nil {
			r.refused = append(r.refused, err)
		}
	}
	if len(r.refused) == 0 && len(r.in) == 0 {
		r.refused = append(r.refused, fmt.Errorf("%w in %s", errNoPolicy, strings.Join(paths, ", ")))
	}
	return r.all, errors.Join(r.refused...)
}

func (r *reader) file(name string) {
	if r.seen[name] {
		return
	}
	r.seen[name] = true
	var data []byte
	var err error
	if name == "-" {
		name = "stdin"
		data, err = io.ReadAll(r.stdin)
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		r.refused = append(r.refused, err)
		return
	}
	items, isList := itemsOf(data)
	if !isList {
		r.objects(name, data)
		return
	}
	before := len(r.refused)
	for i, item := range items {
		r.objects(fmt.Sprintf("%s items[%d]", name, i), item)
	}
	for _, err := range each(errors.Join(r.refused[before:]...)) {
		if e, ok := errors.AsType[*parse.Error](err); ok {
			e.Line, e.Column = 0, 0 // of an item's own text, which nobody sees
		}
	}
}

func (r *reader) objects(name string, data []byte) {
	o, err := access.Read(name, data)
	if err != nil {
		r.refused = append(r.refused, err)
		return
	}
	for _, key := range o.Keys() {
		if other, ok := r.in[key]; ok {
			r.refused = append(r.refused, fmt.Errorf("%s: %s is in %s too", name, authored(key), other))
		}
		r.in[key] = name
	}
	r.all.Add(o)
}

// itemsOf are the objects of a list, which is how kubectl prints several. Whatever
// is no list is left to the strict reader.
func itemsOf(data []byte) (items [][]byte, isList bool) {
	var list struct {
		APIVersion string      `yaml:"apiVersion"`
		Kind       string      `yaml:"kind"`
		Items      []yaml.Node `yaml:"items"`
	}
	if err := yaml.Unmarshal(data, &list); err != nil || list.APIVersion != "v1" || list.Kind != "List" {
		return nil, false
	}
	for i := range list.Items {
		item, err := yaml.Marshal(&list.Items[i])
		if err != nil {
			return nil, false
		}
		items = append(items, item)
	}
	return items, true
}

// authored is what the author calls an object, by its kind and key: policies that
// were made of our own kinds have names of their own.
func authored(object string) string {
	kind, key, _ := strings.Cut(object, " ")
	namespace, name, _ := strings.Cut(key, "/")
	if rest, ok := strings.CutPrefix(name, access.GrantPrefix); ok && kind == policyKind {
		return access.GrantKind + " " + namespace + "/" + rest
	}
	if rest, ok := strings.CutPrefix(name, access.RulePrefix); ok && kind == policyKind {
		return access.RuleKind + " " + namespace + "/" + rest
	}
	return object
}

const policyKind = "AuthorizationPolicy"

var errNoPolicy = errors.New("no policy")
