package compile_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/istio-auth/istio-auth/rbac/rbactest"
)

// A client2 has one connection for HTTP/2, and sends frames that nobody has
// tidied. It may be used by many at once.
type client2 struct {
	dial func() (net.Conn, error)

	mu   sync.Mutex // guards what follows
	line *line2
}

// A line2 is a connection until its end.
type line2 struct {
	conn  net.Conn
	done  chan struct{} // closed when the reader has ended
	write sync.Mutex    // held while frames are written; guards framer, encoder and next
	*http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	next    uint32

	mu      sync.Mutex // guards what follows
	waiting map[uint32]chan answer
	err     error
}

var errEnded = errors.New("the connection has ended")

// do sends a call. Where Envoy ends the connection, maybe for another call on
// it, the call is sent once more on one of its own.
func (c *client2) do(set int, call rbactest.Call) (answer, error) {
	a, err := c.send(set, call)
	if !errors.Is(err, errEnded) {
		return a, err
	}
	own := &client2{dial: c.dial}
	defer own.close()
	if a, err = own.send(set, call); errors.Is(err, errEnded) {
		return answer{details: "connection ended"}, nil
	}
	return a, err
}

func (c *client2) send(set int, call rbactest.Call) (answer, error) {
	c.mu.Lock()
	if c.line == nil || c.line.ended() {
		line, err := open2(c.dial)
		if err != nil {
			c.mu.Unlock()
			return answer{}, err
		}
		c.line = line
	}
	line := c.line
	c.mu.Unlock()
	return line.do(set, call)
}

func (c *client2) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil {
		c.line.conn.Close()
		<-c.line.done
	}
}

func open2(dial func() (net.Conn, error)) (*line2, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	l := &line2{conn: conn, done: make(chan struct{}), next: 1, waiting: map[uint32]chan answer{}}
	l.Framer = http2.NewFramer(conn, bufio.NewReader(conn))
	l.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	l.encoder = hpack.NewEncoder(&l.block)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := l.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := l.WriteWindowUpdate(0, 1<<30); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go l.read()
	return l, nil
}

func (l *line2) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

func (l *line2) do(set int, call rbactest.Call) (answer, error) {
	got := make(chan answer, 1)
	if err := l.send(set, call, got); err != nil {
		return answer{}, err
	}
	a, ok := <-got
	if !ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		return answer{}, fmt.Errorf("%w: %w", errEnded, l.err)
	}
	return a, nil
}

func (l *line2) send(set int, call rbactest.Call, got chan answer) error {
	l.write.Lock()
	defer l.write.Unlock()
	id := l.next
	l.next += 2
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return fmt.Errorf("%w: %w", errEnded, l.err)
	}
	l.waiting[id] = got
	l.mu.Unlock()
	l.block.Reset()
	fields := []rbactest.Header{{Name: ":method", Value: call.Method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: call.Authority}, {Name: ":path", Value: call.Target}}
	for _, h := range append(fields, lines(set, call)...) {
		if err := l.encoder.WriteField(hpack.HeaderField{Name: h.Name, Value: h.Value, Sensitive: false}); err != nil {
			return err
		}
	}
	if err := l.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: l.block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	return nil
}

// read hands out answers until the connection ends.
func (l *line2) read() {
	defer close(l.done)
	for {
		frame, err := l.ReadFrame()
		if err == nil {
			err = l.frame(frame)
		}
		var one http2.StreamError
		if errors.As(err, &one) {
			l.answer(one.StreamID, answer{details: "malformed"})
			continue
		}
		if err != nil {
			l.mu.Lock()
			l.err = err
			for _, got := range l.waiting {
				close(got)
			}
			l.mu.Unlock()
			l.conn.Close()
			return
		}
	}
}

func (l *line2) frame(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		code, err := strconv.Atoi(f.PseudoValue("status"))
		if err != nil {
			return err
		}
		l.answer(f.StreamID, read(code, func(name string) string {
			for _, field := range f.RegularFields() {
				if field.Name == name {
					return field.Value
				}
			}
			return ""
		}))
	case *http2.RSTStreamFrame:
		l.answer(f.StreamID, answer{details: "reset"})
	case *http2.GoAwayFrame:
		return fmt.Errorf("told to go away: %v %q", f.ErrCode, f.DebugData())
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		l.write.Lock()
		defer l.write.Unlock()
		return l.WriteSettingsAck()
	case *http2.PingFrame:
		l.write.Lock()
		defer l.write.Unlock()
		return l.WritePing(true, f.Data)
	}
	return nil
}

func (l *line2) answer(id uint32, a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := l.waiting[id]; got != nil {
		delete(l.waiting, id)
		got <- a
	}
}
