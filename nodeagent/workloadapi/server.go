// Package workloadapi serves the X.509 profile of the SPIFFE Workload API to one
// workload. JWT-SVIDs are not served yet.
//
// Whose socket it is decides who is asked about; this package does not look at
// the caller. Start at [Server].
package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/istio-auth/istio-auth/nodeagent"
)

// defaultMaxStreams is generous for the processes of one pod.
const defaultMaxStreams = 256

// A Server answers for one workload. The zero Server is ready to register; its
// fields must not change after that.
//
// Before the first Publish a stream waits: the specification asks for the first
// message at once where there is one, and a client that is refused backs off for
// up to half a minute, which would be added to the workload's start. When an
// identity has ended without a successor its streams end with PermissionDenied,
// as the specification has it for a caller without one.
type Server struct {
	// Log is told of streams that were refused. Nil discards.
	Log *slog.Logger
	// MaxStreams is how many streams may be open at once. Zero means 256.
	MaxStreams int

	mu       sync.Mutex // guards what follows
	now      answer
	replaced chan struct{}
	streams  int
}

// An answer is what is served now. Its messages are shared by streams and are
// not changed. The zero answer is that nothing is known yet.
type answer struct {
	known   bool
	svids   *workload.X509SVIDResponse // nil: no identity
	bundles *workload.X509BundlesResponse
}

// Publish replaces what is served and sends it to every open stream. An error
// leaves the last good update in place.
func (s *Server) Publish(u nodeagent.Update) error {
	next, err := answerOf(u)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = next
	if s.replaced != nil {
		close(s.replaced)
		s.replaced = nil
	}
	return nil
}

func answerOf(u nodeagent.Update) (answer, error) {
	if u.Bundle == nil || u.Bundle.Empty() {
		return answer{}, errors.New("workloadapi: an update without a bundle")
	}
	bundle := derOf(u.Bundle)
	next := answer{known: true, bundles: &workload.X509BundlesResponse{
		Bundles: map[string][]byte{u.Bundle.TrustDomain().IDString(): bundle},
	}}
	if u.SVID == nil {
		return next, nil
	}
	if u.SVID.ID.TrustDomain() != u.Bundle.TrustDomain() {
		return answer{}, fmt.Errorf("workloadapi: %s with the bundle of %s", u.SVID.ID, u.Bundle.TrustDomain())
	}
	chain, key, err := u.SVID.MarshalRaw()
	if err != nil {
		return answer{}, fmt.Errorf("marshalling the SVID of %s: %w", u.SVID.ID, err)
	}
	// What clients will do with it, before they do: parse, and match the key.
	if parsed, err := x509svid.ParseRaw(chain, key); err != nil {
		return answer{}, fmt.Errorf("checking the SVID of %s: %w", u.SVID.ID, err)
	} else if parsed.ID != u.SVID.ID {
		return answer{}, fmt.Errorf("workloadapi: the certificate is of %s, the SVID of %s", parsed.ID, u.SVID.ID)
	}
	next.svids = &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: u.SVID.ID.String(), X509Svid: chain, X509SvidKey: key, Bundle: bundle,
	}}}
	return next, nil
}

// derOf concatenates the roots, as the Workload API wants them.
func derOf(bundle *x509bundle.Bundle) []byte {
	var der []byte
	for _, root := range bundle.X509Authorities() {
		der = append(der, root.Raw...)
	}
	return der
}

// Register adds the service to a gRPC server that does not serve yet.
func (s *Server) Register(g *grpc.Server) {
	workload.RegisterSpiffeWorkloadAPIServer(g, service{server: s})
}

// current returns what is served and a channel that is closed when that changes.
func (s *Server) current() (answer, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replaced == nil {
		s.replaced = make(chan struct{})
	}
	return s.now, s.replaced
}

// enter takes one of the streams; the caller gives it back with leave.
func (s *Server) enter() error {
	limit := s.MaxStreams
	if limit == 0 {
		limit = defaultMaxStreams
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams >= limit {
		return status.Error(codes.ResourceExhausted, "too many streams")
	}
	s.streams++
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
}

// follow sends the newest answer, then every newer one, until the stream ends.
// What is replaced while the client reads is not sent: each message is the full
// set.
func (s *Server) follow(ctx context.Context, send func(answer) error) error {
	if err := fromWorkload(ctx); err != nil {
		s.refused(ctx, err)
		return err
	}
	if err := s.enter(); err != nil {
		s.refused(ctx, err)
		return err
	}
	defer s.leave()
	for {
		now, replaced := s.current()
		if now.known {
			if err := send(now); err != nil {
				return err
			}
		}
		select {
		case <-replaced:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (s *Server) refused(ctx context.Context, err error) {
	if s.Log != nil {
		s.Log.WarnContext(ctx, "workload API call refused", "err", err)
	}
}

// fromWorkload checks the header that says that the caller means this API, and
// is not a browser or a proxy that was talked into a request (SPIFFE Workload
// Endpoint, "Security Considerations").
func fromWorkload(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get("workload.spiffe.io"); len(values) != 1 || values[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}
