package sdstest

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/istio-auth/istio-auth/sds"
	"github.com/istio-auth/istio-auth/sds/secret"
)

// A FanOutResult is what [FanOut] measured.
type FanOutResult struct {
	// Took is the time from handing a renewed certificate to the source until
	// the last of the streams has it, the median of the rounds.
	Took time.Duration
	// Floor is the time that marshalling the same message once for each stream
	// and writing it to as many plain Unix sockets takes, until the last reader
	// has read it, the median of as many rounds.
	Floor time.Duration
	// Bytes is the size of the message.
	Bytes int
}

// fanOutRounds is how many renewals are measured.
const fanOutRounds = 7

// FanOut measures how long a renewed certificate takes to reach many open
// streams, each on a connection of its own with [default, ROOTCA] subscribed on
// one aggregated stream, as the Envoys of a node have it. Server and clients
// share this process, as they do in the floor.
func FanOut(ctx context.Context, streams int) (FanOutResult, error) {
	id := spiffeid.RequireFromString("spiffe://bench.test/ns/default/sa/bench")
	authority, err := NewAuthority(id.TrustDomain())
	if err != nil {
		return FanOutResult{}, err
	}
	// What will be handed out is signed before the clock runs.
	var svids []*x509svid.SVID
	var key crypto.Signer
	for range fanOutRounds + 1 {
		svid, err := authority.SVID(id, Leaf{Key: key})
		if err != nil {
			return FanOutResult{}, err
		}
		key = svid.PrivateKey
		svids = append(svids, svid)
	}
	set := func(source *secret.Source, i int) error {
		return source.Set(secret.Material{SVID: svids[i], Bundle: authority.Bundle()})
	}

	source := &secret.Source{}
	if err := set(source, 0); err != nil {
		return FanOutResult{}, err
	}
	server := &sds.Server{
		Sources:    func(context.Context) ([]sds.Source, error) { return []sds.Source{source}, nil },
		MaxStreams: streams,
	}
	socket, err := Serve(func(g *grpc.Server) { server.Register(g) })
	if err != nil {
		return FanOutResult{}, err
	}
	defer socket.Close()
	ctx, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()

	received, failed := make(chan *discoveryv3.DiscoveryResponse, streams), make(chan error, streams)
	for range streams {
		group.Go(func() {
			if err := subscribe(ctx, socket, received); err != nil {
				failed <- err
			}
		})
	}
	var result FanOutResult
	var last *discoveryv3.DiscoveryResponse
	wait := func() error {
		for range streams {
			select {
			case last = <-received:
			case err := <-failed:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	if err := wait(); err != nil {
		return result, fmt.Errorf("opening %d streams: %w", streams, err)
	}
	var took []time.Duration
	for i := range fanOutRounds {
		start := time.Now()
		if err := set(source, i+1); err != nil {
			return result, err
		}
		if err := wait(); err != nil {
			return result, fmt.Errorf("round %d: %w", i, err)
		}
		took = append(took, time.Since(start))
	}
	stop()
	group.Wait()
	result.Bytes = proto.Size(last)
	result.Took = median(took)
	result.Floor, err = floor(socket.dir, streams, last)
	return result, err
}

// subscribe is one Envoy. It reports each certificate that it is given.
func subscribe(ctx context.Context, socket *Socket, received chan<- *discoveryv3.DiscoveryResponse) error {
	conn, err := socket.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	wire, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return err
	}
	request := &discoveryv3.DiscoveryRequest{TypeUrl: sds.SecretType, ResourceNames: []string{secret.RootName, secret.DefaultName}}
	roots := ""
	for {
		if err := wire.Send(request); err != nil {
			return err
		}
		response, err := wire.Recv()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		request.VersionInfo, request.ResponseNonce = response.GetVersionInfo(), response.GetNonce()
		if roots == "" || roots == response.GetVersionInfo() {
			roots = response.GetVersionInfo() // ROOTCA comes first, and does not change
			continue
		}
		received <- response
	}
}

// floor does the part of the work that cannot be left out.
func floor(dir string, streams int, message proto.Message) (time.Duration, error) {
	listener, err := net.Listen("unix", filepath.Join(dir, "floor"))
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	size := proto.Size(message)
	var readers sync.WaitGroup
	defer readers.Wait()
	var writers []net.Conn
	defer func() {
		for _, c := range writers {
			_ = c.Close()
		}
	}()
	received := make(chan error, streams)
	for range streams {
		writer, err := net.Dial("unix", filepath.Join(dir, "floor"))
		if err != nil {
			return 0, err
		}
		writers = append(writers, writer)
		reader, err := listener.Accept()
		if err != nil {
			return 0, err
		}
		readers.Go(func() {
			defer reader.Close()
			for buffer := make([]byte, size); ; {
				_, err := io.ReadFull(reader, buffer)
				if err != nil {
					return
				}
				received <- nil
			}
		})
	}
	var took []time.Duration
	for range fanOutRounds {
		start := time.Now()
		for _, writer := range writers {
			data, err := proto.Marshal(message)
			if err == nil {
				_, err = writer.Write(data)
			}
			if err != nil {
				return 0, fmt.Errorf("the floor: %w", err)
			}
		}
		for range streams {
			<-received
		}
		took = append(took, time.Since(start))
	}
	return median(took), nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
