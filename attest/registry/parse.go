package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"github.com/istio-auth/istio-auth/attest"
)

const (
	// MaxSize is the largest file that Parse reads, in bytes.
	MaxSize = 1 << 20

	maxExecutable = 4095 // PATH_MAX without its NUL
	maxLabels     = 64
)

// file is the format; `istio-auth up` writes an example of it.
type file struct {
	Workloads *[]entry `yaml:"workloads"`
}

type entry struct {
	Name           string            `yaml:"name"`           // RFC 1123 subdomain, once in the file
	Node           string            `yaml:"node"`           // name of the host
	UserID         *userID           `yaml:"uid"`            // Unix user id, decimal
	Executable     string            `yaml:"executable"`     // absolute, clean path
	Namespace      string            `yaml:"namespace"`      // RFC 1123 label
	ServiceAccount string            `yaml:"serviceAccount"` // RFC 1123 subdomain
	Labels         map[string]string `yaml:"labels"`         // as Kubernetes has them
}

// userID reads a decimal number and nothing else: YAML's 010 is eight or ten,
// depending on whom one asks, and its "10" is a string.
type userID uint32

func (u *userID) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseUint(n.Value, 10, 32)
	if err != nil || n.ShortTag() != "!!int" || strconv.FormatUint(v, 10) != n.Value || v == 1<<32-1 {
		return fmt.Errorf("line %d: uid %.40q is no Unix user id in decimal", n.Line, n.Value)
	}
	*u = userID(v)
	return nil
}

// Parse reads a registry. The whole file is good, or it is refused with an
// [*attest.Refusal]: an unknown or repeated key, a second document, an alias, a
// null, a name that Kubernetes would not allow, two entries of one name, two
// entries for one process. An empty list is a registry without workloads; an
// empty file is refused, since a file that was cut short looks like one.
func Parse(data []byte) (*Registry, error) {
	if len(data) > MaxSize {
		return nil, attest.Refuse("registry-too-large", "%d bytes, at most %d", len(data), MaxSize)
	}
	if !utf8.Valid(data) {
		return nil, attest.Refuse("registry-yaml", "not UTF-8")
	}
	if err := plain(data); err != nil {
		return nil, err
	}
	var f file
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return nil, &attest.Refusal{Reason: "registry-yaml", Err: err}
	}
	if f.Workloads == nil {
		return nil, attest.Refuse("registry-empty", "no list of workloads")
	}
	r := &Registry{names: map[string]Workload{}, processes: map[process]string{}, nodes: map[string][]string{}}
	for i, e := range *f.Workloads {
		if err := r.add(e); err != nil {
			return nil, fmt.Errorf("workload %d (%.80q): %w", i+1, e.Name, err)
		}
	}
	for _, names := range r.nodes {
		slices.Sort(names)
	}
	return r, nil
}

// plain refuses what YAML has beyond maps, lists and scalars, and anything
// after the first document, which decoders do not look at.
func plain(data []byte) error {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return attest.Refuse("registry-empty", "an empty file")
	case err != nil:
		return &attest.Refusal{Reason: "registry-yaml", Err: err}
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return attest.Refuse("registry-several-documents", "something follows the first document")
	}
	return walk(&doc)
}

// walk recurses as deep as the file is nested; the reader of YAML has a limit.
func walk(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.ShortTag() == "!!merge" {
		return attest.Refuse("registry-alias", "line %d: anchors, aliases and merges are not read", n.Line)
	}
	if n.ShortTag() == "!!null" && n.Kind == yaml.ScalarNode {
		// Decoders drop it: a list loses an entry, a label its value.
		return attest.Refuse("registry-null", "line %d: nothing where a value is due", n.Line)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return attest.Refuse("registry-yaml", "line %d: tag %.40q", n.Line, n.Tag)
	}
	for _, child := range n.Content {
		if err := walk(child); err != nil {
			return err
		}
	}
	return nil
}

func (r *Registry) add(e entry) error {
	pod := attest.Pod{Namespace: e.Namespace, Name: e.Name, UID: "x", ServiceAccount: e.ServiceAccount}
	if _, err := attest.NewWorkload(anyDomain, attest.Node{Name: e.Node, UID: "x"}, pod); err != nil {
		return err
	}
	if e.UserID == nil {
		return attest.Refuse("bad-uid", "no Unix user id")
	}
	if err := checkExecutable(e.Executable); err != nil {
		return err
	}
	if err := checkLabels(e.Labels); err != nil {
		return err
	}
	pod.UID = digest(e)
	w := Workload{Pod: pod, Node: e.Node, UserID: uint32(*e.UserID), Executable: e.Executable, Labels: e.Labels}
	if _, ok := r.names[e.Name]; ok {
		return attest.Refuse("registry-duplicate-name", "named twice")
	}
	p := process{w.Node, w.UserID, w.Executable}
	if other, ok := r.processes[p]; ok {
		return attest.Refuse("registry-duplicate-process", "user %d and %s on %s are %q already", w.UserID, w.Executable, w.Node, other)
	}
	r.names[e.Name], r.processes[p] = w, e.Name
	r.nodes[w.Node] = append(r.nodes[w.Node], e.Name)
	return nil
}

// anyDomain lets names be checked where no trust domain is known.
var anyDomain = spiffeid.RequireTrustDomainFromString("x")

// digest is the UID of an entry: 128 bits of SHA-256 over its parts, each with
// its length in front. UIDs of Kubernetes have as many.
func digest(e entry) string {
	h := sha256.New()
	for _, part := range []string{"istio-auth registry entry v1", e.Name, e.Node, strconv.FormatUint(uint64(*e.UserID), 10), e.Executable, e.Namespace, e.ServiceAccount} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		io.WriteString(h, part)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// checkExecutable wants a path in the one form in which the kernel tells it.
func checkExecutable(s string) error {
	if len(s) > maxExecutable {
		return attest.Refuse("bad-executable", "%d bytes, at most %d", len(s), maxExecutable)
	}
	if !path.IsAbs(s) || path.Clean(s) != s || s == "/" {
		return attest.Refuse("bad-executable", "%.200q is no absolute, clean path of a file", s)
	}
	for _, c := range s {
		if c < ' ' || c == 0x7f {
			return attest.Refuse("bad-executable", "%.200q has a control character", s)
		}
	}
	if strings.HasSuffix(s, " (deleted)") {
		return attest.Refuse("bad-executable", "%.200q is how the kernel names a file that is gone", s)
	}
	return nil
}

// checkLabels holds labels to Kubernetes' syntax, so that a selector means the
// same on hosts as on pods.
func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return attest.Refuse("bad-label", "%d labels, at most %d", len(labels), maxLabels)
	}
	for key, value := range labels {
		prefix, name, ok := strings.Cut(key, "/")
		if !ok {
			prefix, name = "", key
		} else if attest.CheckHint(attest.Pod{Namespace: "x", Name: prefix, UID: "x"}) != nil { // a subdomain, as a pod's name
			return attest.Refuse("bad-label", "key %.400q", key)
		}
		if name == "" || !labelWord(name) || !labelWord(value) {
			return attest.Refuse("bad-label", "%.400q: %.400q", key, value)
		}
	}
	return nil
}

// labelWord tells whether s is empty, or 63 bytes at most of letters, digits,
// '-', '_' and '.', with a letter or digit at each end.
func labelWord(s string) bool {
	if len(s) > 63 {
		return false
	}
	for i := range len(s) {
		alnum := 'a' <= s[i] && s[i] <= 'z' || 'A' <= s[i] && s[i] <= 'Z' || '0' <= s[i] && s[i] <= '9'
		inner := 0 < i && i < len(s)-1
		if !alnum && !(inner && (s[i] == '-' || s[i] == '_' || s[i] == '.')) {
			return false
		}
	}
	return true
}
