package k8stoken

import (
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/rest"
)

// maxAnswer bounds an answer of the API server. A pod cannot be larger than
// what etcd takes, 1.5 MiB, and its JSON is not twice that.
const maxAnswer = 4 << 20

// ClientConfig returns a copy of c that suits a [Reviewer]: an answer is read up
// to 4 MiB, no redirect is followed (it would take the token along), nothing
// waits in line in here, and nothing is tried again because the API server said
// so. Who asked us decides whether to ask again; a request that sleeps in the
// client would hold its place in the queue and then miss its deadline. What
// client-go does of its own is one more GET where a connection broke.
func ClientConfig(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.QPS = -1
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return limited{next} })
	return c
}

// limited bounds bodies, fails on redirects, and drops the header that makes
// client-go retry.
type limited struct{ next http.RoundTripper }

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 3 {
		resp.Body.Close()
		return nil, fmt.Errorf("the API server redirects (%s)", resp.Status)
	}
	resp.Header.Del("Retry-After")
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

// limitedBody fails, rather than ends, past its limit: half an answer is none.
type limitedBody struct {
	io.ReadCloser
	left int
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	return n, err
}
