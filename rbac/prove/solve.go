package prove

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/istio-auth/istio-auth/rbac/interpret"
)

// A solution is a string that satisfies literals of one attribute.
type solution struct {
	found bool
	there bool // false: the attribute is not there
	value string
	gave  bool // up: it is not known whether there is one
}

// maxStates bounds the search for one string.
const maxStates = 20000

// domain is what values an attribute can have at all, as a regular expression;
// path and fold have more to them than that.
var domain = map[attrKind]string{
	peer:    "[!-~]+",
	path:    `[!-"$->@-~]*`,
	fold:    `/[ -"$->@-~]*`,
	method:  "[!-~]+",
	host:    `[-a-z0-9_]+(\.[-a-z0-9_]+)*|\[[0-9a-f:.]+\]`,
	header:  "([!-~]([ -~]*[!-~])?)?",
	issuer:  "[ -~]+",
	subject: "[ -~]+",
	text:    "[ -~]*",
	list:    "[ -~]*",
	word:    "-",
	server:  "[!-@^-~[`]+",
}

// solve finds a value for literals of one attribute that is a string.
func (p *proof) solve(of attribute, literals []literal) solution {
	slices.Sort(literals)
	literals = slices.Compact(literals)
	k := string(rune(of.kind)) + of.name + "\x00" + string(box(literals).key(nil))
	if s, ok := p.solved[k]; ok {
		return s
	}
	s := p.search(of, literals)
	p.solved[k] = s
	return s
}

func (p *proof) search(of attribute, literals []literal) solution {
	absent := !slices.ContainsFunc(literals, func(l literal) bool { return !l.negated() })
	switch of.kind {
	case port:
		return p.searchPort(literals)
	case path, fold, method:
		absent = false
	case peer:
		// A connection without TLS is refused for other reasons where no peer may
		// be without a certificate: look for one that has one first.
		if s := p.walk(of, literals); s.found && !p.claim.anonymous {
			return s
		}
	case issuer, subject:
		// Without a token it is "-", as Envoy writes what is missing.
		if p.all(literals, "-") {
			return solution{found: true, there: true, value: "-"}
		}
		if s := p.walk(of, literals); s.found || s.gave {
			return s
		}
	}
	if absent {
		return solution{found: true}
	}
	return p.walk(of, literals)
}

func (p *proof) searchPort(literals []literal) solution {
	for n := range 65536 {
		value := strconv.Itoa((n + 80) % 65536)
		if p.all(literals, value) {
			return solution{found: true, there: true, value: value}
		}
	}
	return solution{}
}

// all tells whether literals hold of a string that is there.
func (p *proof) all(literals []literal, s string) bool {
	for _, l := range literals {
		if p.holds(&p.atoms[l.atom()], s) == l.negated() {
			return false
		}
	}
	return true
}

// A machine runs an atom over a string, byte by byte.
type machine struct {
	atom   *atom
	want   bool
	shape  *interpret.Shape
	fail   []int // of the literal: Knuth, Morris and Pratt
	needle string
}

// A place is where a machine stands: how much of the needle, or a run.
type place struct {
	n   int
	run interpret.Run
}

const dead = -1

func (p *proof) machine(l literal) machine {
	a := &p.atoms[l.atom()]
	m := machine{atom: a, want: !l.negated(), needle: a.literal}
	if a.ignoreCase {
		m.needle = lower(m.needle)
	}
	switch a.how {
	case regex:
		m.shape = p.shape(a.literal)
	case suffix, contains:
		m.fail = borders(m.needle)
	}
	return m
}

// borders is how long the longest border of each beginning is.
func borders(s string) []int {
	out := make([]int, len(s)+1)
	for i, n := 1, 0; i < len(s); i++ {
		for n > 0 && s[i] != s[n] {
			n = out[n]
		}
		if s[i] == s[n] {
			n++
		}
		out[i+1] = n
	}
	return out
}

func (m *machine) begin() place {
	if m.shape != nil {
		return place{run: m.shape.Begin()}
	}
	return place{}
}

func (m *machine) next(at place, b byte) place {
	if m.shape != nil {
		return place{run: m.shape.Next(at.run, b)}
	}
	if m.atom.ignoreCase && 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	n, whole := at.n, len(m.needle)
	switch m.atom.how {
	case exact:
		if n == dead || n == whole || m.needle[n] != b {
			return place{n: dead}
		}
		return place{n: n + 1}
	case prefix:
		if n == dead || n == whole {
			return at
		}
		if m.needle[n] != b {
			return place{n: dead}
		}
		return place{n: n + 1}
	case suffix, contains:
		if m.atom.how == contains && n == whole {
			return at
		}
		for n > 0 && (n == whole || m.needle[n] != b) {
			n = m.fail[n]
		}
		if n < whole && m.needle[n] == b {
			n++
		}
		return place{n: n}
	}
	return at
}

func (m *machine) accepts(at place) bool {
	if m.shape != nil {
		return m.shape.Accepts(at.run)
	}
	return m.atom.how == present || at.n == len(m.needle)
}

// walk looks through the product of the machines, breadth first, for the
// shortest string that satisfies all of them.
func (p *proof) walk(of attribute, literals []literal) solution {
	machines := make([]machine, 0, len(literals)+1)
	for _, l := range literals {
		machines = append(machines, p.machine(l))
	}
	if d, ok := domain[of.kind]; ok {
		machines = append(machines, machine{atom: &atom{how: regex}, want: true, shape: p.shape(d)})
	}
	type step struct {
		at   []place
		from int
		b    byte
	}
	first := step{at: make([]place, len(machines)), from: -1}
	for i := range machines {
		first.at[i] = machines[i].begin()
	}
	steps := []step{first}
	seen := map[string]bool{placesKey(machines, first.at): true}
	letters := alphabet(machines)
	for i := 0; i < len(steps); i++ {
		if satisfied(machines, steps[i].at) {
			var out []byte
			for j := i; steps[j].from >= 0; j = steps[j].from {
				out = append(out, steps[j].b)
			}
			slices.Reverse(out)
			return solution{found: true, there: true, value: string(out)}
		}
		for _, b := range letters {
			at := make([]place, len(machines))
			hopeless := false
			for j := range machines {
				at[j] = machines[j].next(steps[i].at[j], b)
				hopeless = hopeless || machines[j].hopeless(at[j])
			}
			if hopeless {
				continue
			}
			if k := placesKey(machines, at); !seen[k] {
				seen[k] = true
				steps = append(steps, step{at, i, b})
			}
		}
		if p.left -= len(letters) * len(machines); p.left < 0 || len(steps) > maxStates {
			return solution{gave: true}
		}
	}
	return solution{}
}

// hopeless tells that a machine will not be satisfied, whatever comes.
func (m *machine) hopeless(at place) bool {
	if m.shape != nil {
		return m.want && at.run.Stuck()
	}
	switch m.atom.how {
	case exact, prefix:
		if m.want {
			return at.n == dead
		}
		return m.atom.how == prefix && at.n == len(m.needle)
	case contains:
		return !m.want && at.n == len(m.needle)
	}
	return false
}

func satisfied(machines []machine, at []place) bool {
	for i := range machines {
		if machines[i].accepts(at[i]) != machines[i].want {
			return false
		}
	}
	return true
}

func placesKey(machines []machine, at []place) string {
	var out []byte
	for i := range machines {
		if machines[i].shape != nil {
			out = append(out, at[i].run.Key()...)
			continue
		}
		out = strconv.AppendInt(append(out, ';'), int64(at[i].n), 10)
	}
	return string(out)
}

// alphabet is one byte of each kind that the machines tell apart.
func alphabet(machines []machine) []byte {
	var named [256]bool
	for i := range machines {
		m := &machines[i]
		for j := range len(m.needle) {
			if m.shape == nil {
				named[m.needle[j]] = true
				if m.atom.ignoreCase {
					named[strings.ToUpper(m.needle[j : j+1])[0]] = true
				}
			}
		}
	}
	seen := map[string]bool{}
	var out []byte
	// Letters first, so that what is found can be read.
	for _, b := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._:,;%=~!$&'()*+@[]^`{|}<>\"#?\\ ") {
		k := make([]byte, 0, 64)
		if named[b] {
			k = append(k, 'n', b)
		}
		for i := range machines {
			if machines[i].shape == nil {
				continue
			}
			for _, set := range machines[i].shape.Sets() {
				if set.Has(b) {
					k = append(k, 1)
				} else {
					k = append(k, 0)
				}
			}
		}
		if !seen[string(k)] {
			seen[string(k)] = true
			out = append(out, b)
		}
	}
	return out
}

// solveAddress finds an address for literals: the first of a network that must
// be, or the one behind a network that must not, or the lowest there is.
func (p *proof) solveAddress(literals []literal) (netip.Addr, bool) {
	candidates := []netip.Addr{netip.AddrFrom4([4]byte{}), netip.IPv6Unspecified()}
	for _, l := range literals {
		n := p.atoms[l.atom()].network
		candidates = append(candidates, n.Addr())
		if next := last(n).Next(); next.IsValid() && next.Is4() == n.Addr().Is4() {
			candidates = append(candidates, next)
		}
	}
	for _, ip := range candidates {
		if ip.Is4In6() {
			ip = netip.MustParseAddr("::1:0:0:0") // behind what Envoy takes for IPv4
		}
		if !slices.ContainsFunc(literals, func(l literal) bool { return p.atoms[l.atom()].network.Contains(ip) == l.negated() }) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// last is the highest address of a network.
func last(n netip.Prefix) netip.Addr {
	b := n.Addr().AsSlice()
	for i := n.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	ip, _ := netip.AddrFromSlice(b)
	return ip
}
