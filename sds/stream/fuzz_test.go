package stream_test

import (
	"fmt"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/istio-auth/istio-auth/sds/stream"
)

// fuzzNames are few, so that operations meet.
var fuzzNames = []string{"ROOTCA", "a", "b", "default"}

// A client is what a well-behaved Envoy would know, driven by bytes into doing
// anything in any order.
type client struct {
	t       *testing.T
	now     time.Time
	session *stream.Session
	delta   bool
	typeURL string

	asked  bool
	wants  map[string]bool
	has    map[string]string // name => version accepted last
	inbox  []answer
	nonces map[string]bool
	last   string // the nonce answered last

	snapshot stream.Snapshot
	versions int
	ever     map[string]bool // name=version that the source ever had
}

type answer struct {
	nonce     string
	resources map[string]string
	removed   []string
}

func newClient(t *testing.T, delta bool, typeURL string) *client {
	c := &client{
		t: t, now: time.Unix(1_000_000, 0), delta: delta, typeURL: typeURL, session: stream.NewSotW(),
		wants: map[string]bool{}, has: map[string]string{}, nonces: map[string]bool{}, ever: map[string]bool{},
	}
	if delta {
		c.session = stream.NewDelta()
	}
	return c
}

func (c *client) request(names, gone []string, nonce string, refuse bool) {
	c.t.Helper()
	var status *statuspb.Status
	if refuse {
		status = &statuspb.Status{Code: 3, Message: "no"}
	}
	var err error
	if c.delta {
		err = c.session.Delta(c.now, &discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: c.typeURL, ResponseNonce: nonce, ErrorDetail: status,
			ResourceNamesSubscribe: names, ResourceNamesUnsubscribe: gone,
		})
	} else {
		err = c.session.SotW(c.now, &discoveryv3.DiscoveryRequest{
			TypeUrl: c.typeURL, ResponseNonce: nonce, ErrorDetail: status, ResourceNames: names,
		})
	}
	if err != nil {
		c.t.Fatalf("a fair request was refused: %v", err)
	}
	if !c.asked {
		c.asked = true
		c.session.Set(c.typeURL, c.snapshot)
	}
}

// names is what a state-of-the-world request lists.
func (c *client) names() []string {
	var names []string
	for _, name := range fuzzNames {
		if c.wants[name] {
			names = append(names, name)
		}
	}
	return names
}

func (c *client) step(op, arg byte) {
	name := fuzzNames[int(arg)%len(fuzzNames)]
	switch op % 8 {
	case 0: // the source changes one name
		c.set(name, true)
	case 1: // the source withdraws one name
		c.set(name, false)
	case 2: // subscribe, again perhaps
		c.wants[name] = true
		if c.delta {
			c.request([]string{name}, nil, "", false)
		} else {
			c.request(c.names(), nil, c.last, false)
		}
	case 3: // unsubscribe; the last name stays, for none would be a wildcard to some
		if !c.asked || len(c.names()) < 2 || !c.wants[name] {
			return
		}
		delete(c.wants, name)
		delete(c.has, name)
		if c.delta {
			c.request(nil, []string{name}, "", false)
		} else {
			c.request(c.names(), nil, c.last, false)
		}
	case 4, 5: // answer what came
		c.answer(op%8 == 5)
	case 6: // read
		c.read()
	case 7:
		c.now = c.now.Add(time.Duration(arg) * 100 * time.Millisecond)
		c.read()
	}
}

func (c *client) set(name string, present bool) {
	next := stream.Snapshot{Resources: map[string]*stream.Resource{}, Complete: true}
	for key, r := range c.snapshot.Resources {
		next.Resources[key] = r
	}
	delete(next.Resources, name)
	if present {
		c.versions++
		version := fmt.Sprint("v", c.versions)
		next.Resources[name] = &stream.Resource{Name: name, Version: version, Body: &anypb.Any{Value: []byte(name + "=" + version)}}
		c.ever[name+"="+version] = true
	}
	c.snapshot = next
	c.session.Set(c.typeURL, next)
}

// answer acknowledges or refuses the oldest unanswered message.
func (c *client) answer(refuse bool) {
	if len(c.inbox) == 0 {
		return
	}
	m := c.inbox[0]
	c.inbox = c.inbox[1:]
	c.last = m.nonce
	if !refuse {
		for name, version := range m.resources {
			if c.wants[name] {
				c.has[name] = version
			}
		}
		for _, name := range m.removed {
			delete(c.has, name)
		}
	}
	if c.delta {
		c.request(nil, nil, m.nonce, refuse)
	} else {
		c.request(c.names(), nil, m.nonce, refuse)
	}
	for _, e := range c.session.Events() {
		if e.Refused != refuse {
			c.t.Fatalf("event %+v for an answer with refuse=%v", e, refuse)
		}
		if _, sent := m.resources[e.Name]; !sent && e.Version != "" {
			c.t.Fatalf("event %+v for a message of %v", e, m.resources)
		}
	}
}

// read takes all that there is to take, and checks each message.
func (c *client) read() {
	for range 100 {
		response, ok := c.session.Next(c.now)
		if !ok {
			if wake := c.session.Wake(); !wake.IsZero() && !wake.After(c.now) {
				c.t.Fatalf("would wake at %v, now is %v, with nothing to send", wake, c.now)
			}
			return
		}
		m := answer{resources: map[string]string{}}
		if c.delta {
			m.nonce, m.removed = response.Delta.Nonce, response.Delta.RemovedResources
			for _, r := range response.Delta.Resources {
				m.resources[r.Name] = r.Version
			}
		} else {
			m.nonce = response.SotW.Nonce
			for _, r := range response.SotW.Resources {
				var name, version string
				for i, b := range r.Value {
					if b == '=' {
						name, version = string(r.Value[:i]), string(r.Value[i+1:])
					}
				}
				m.resources[name] = version
			}
		}
		c.check(m)
		c.inbox = append(c.inbox, m)
	}
	c.t.Fatal("the session does not stop answering")
}

func (c *client) check(m answer) {
	if c.nonces[m.nonce] || m.nonce == "" {
		c.t.Fatalf("nonce %q twice", m.nonce)
	}
	c.nonces[m.nonce] = true
	for name, version := range m.resources {
		if !c.wants[name] {
			c.t.Fatalf("%s was sent and is not subscribed", name)
		}
		current := c.snapshot.Resources[name]
		switch {
		case !c.ever[name+"="+version]:
			c.t.Fatalf("%s=%s never was", name, version)
		case current == nil:
			c.t.Fatalf("%s was sent and is withdrawn", name)
		case current.Version != version && c.has[name] != version:
			c.t.Fatalf("%s=%s is neither current (%s) nor the last good one (%s)", name, version, current.Version, c.has[name])
		}
	}
	for _, name := range m.removed {
		if c.snapshot.Resources[name] != nil || !c.snapshot.Complete {
			c.t.Fatalf("%s was told removed and is there", name)
		}
	}
}

// settle lets the client agree to everything until nothing is left, and then
// it must have what there is.
func (c *client) settle() {
	for range 100 {
		c.now = c.now.Add(10 * time.Minute)
		c.read()
		if len(c.inbox) == 0 {
			break
		}
		for len(c.inbox) > 0 {
			c.answer(false)
		}
	}
	for name := range c.wants {
		if r := c.snapshot.Resources[name]; r != nil && c.has[name] != r.Version {
			c.t.Fatalf("in the end the client has %s=%q, the source %q", name, c.has[name], r.Version)
		}
	}
}

// FuzzSession drives a session with operations read from bytes. Whatever the
// order: only what is subscribed is sent, only the current or the last good
// version, never twice the same nonce, never without end; and a client that
// agrees in the end has everything.
func FuzzSession(f *testing.F) {
	f.Add(false, []byte{0, 3, 2, 3, 6, 0, 4, 0, 0, 3, 6, 0, 5, 0, 6, 0, 4, 0})
	f.Add(true, []byte{0, 0, 0, 3, 2, 0, 2, 3, 6, 0, 4, 0, 4, 0, 0, 3, 6, 0, 5, 0, 7, 30, 5, 0, 7, 40})
	f.Add(true, []byte{2, 1, 6, 0, 0, 1, 6, 0, 4, 0, 1, 1, 6, 0, 3, 1})
	f.Add(false, []byte{2, 0, 2, 1, 0, 0, 0, 1, 6, 0, 3, 0, 0, 0, 2, 0, 2, 0, 6, 0, 5, 0, 5, 0, 5, 0})
	f.Fuzz(func(t *testing.T, delta bool, ops []byte) {
		if len(ops) > 400 {
			return // the budget of refusals is another test
		}
		c := newClient(t, delta, types["secret"])
		for i := 0; i+1 < len(ops); i += 2 {
			c.step(ops[i], ops[i+1])
		}
		if c.asked {
			c.settle()
		}
	})
}
