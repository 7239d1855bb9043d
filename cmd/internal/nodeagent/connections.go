package nodeagent

import (
	"errors"
	"net"
	"sync"
)

// maxConnections is how many a workload may have with us at once, far above
// what an Envoy and an application need; more wait. Descriptors are the node's.
const maxConnections = 64

// A bounded listener accepts no more while as many connections as it has slots
// are open. Unlike netutil's, its connections can still be asked for their
// Unix socket: who is at the other end is read from that.
type bounded struct {
	net.Listener
	slots chan struct{}
	done  chan struct{} // closed by Close
	close func() error
}

func bound(l net.Listener, most int) *bounded {
	b := &bounded{Listener: l, slots: make(chan struct{}, most), done: make(chan struct{})}
	b.close = sync.OnceValue(func() error {
		close(b.done)
		return l.Close()
	})
	return b
}

// Accept waits for a slot, then for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	case <-b.done:
		return nil, net.ErrClosed
	}
	free := sync.OnceFunc(func() { <-b.slots })
	conn, err := b.Listener.Accept()
	if err != nil {
		free()
		return nil, err
	}
	return slotted{conn, free}, nil
}

// Close ends Accept, too where that waits for a slot.
func (b *bounded) Close() error { return b.close() }

// slotted is a connection that gives its slot back when it is closed.
type slotted struct {
	net.Conn
	free func()
}

// Close may be called again; the slot is given back once.
func (s slotted) Close() error {
	defer s.free()
	return s.Conn.Close()
}

// unixSocket is the socket beneath an accepted connection.
func unixSocket(c net.Conn) (*net.UnixConn, error) {
	if s, ok := c.(slotted); ok {
		c = s.Conn
	}
	if unix, ok := c.(*net.UnixConn); ok {
		return unix, nil
	}
	return nil, errors.New("not a Unix socket")
}
