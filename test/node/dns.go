package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// domain is the cluster's, below which services have their names.
const domain = "cluster.local"

// A names is the cluster's DNS: it knows the services that have a cluster IP,
// as Kubernetes' specification of service discovery says, and nothing else. It
// asks the API server at each question, so that no answer is old.
type names struct {
	conn   net.PacketConn
	client kubernetes.Interface
	ended  sync.WaitGroup
}

// serveNames answers on conn until it is closed.
func serveNames(conn net.PacketConn, client kubernetes.Interface) *names {
	s := &names{conn: conn, client: client}
	s.ended.Go(s.serve)
	return s
}

func (s *names) close() error {
	err := s.conn.Close()
	s.ended.Wait()
	return err
}

func (s *names) serve() {
	ctx, cancel := context.WithCancel(context.Background()) // ends with the socket
	defer cancel()
	buffer := make([]byte, 4096)
	for {
		n, from, err := s.conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		question := dnsmessage.Message{}
		if err != nil || question.Unpack(buffer[:n]) != nil {
			continue
		}
		s.ended.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if packed, err := s.answer(ctx, question); err == nil {
				_, _ = s.conn.WriteTo(packed, from)
			}
		})
	}
}

// answer is the reply to one message. Where the API server does not answer, the
// asker is told to try again.
func (s *names) answer(ctx context.Context, m dnsmessage.Message) ([]byte, error) {
	m.Response, m.Authoritative, m.RecursionAvailable = true, true, true
	m.Answers, m.Authorities, m.Additionals = nil, nil, nil
	if len(m.Questions) != 1 {
		m.RCode = dnsmessage.RCodeFormatError
		return m.Pack()
	}
	q := m.Questions[0]
	address, err := s.find(ctx, q.Name.String())
	switch {
	case apierrors.IsNotFound(err):
		m.RCode = dnsmessage.RCodeNameError
	case err != nil:
		m.RCode = dnsmessage.RCodeServerFailure
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}}
	}
	return m.Pack()
}

// find is the cluster IP of the service that a name means.
func (s *names) find(ctx context.Context, name string) (netip.Addr, error) {
	none := apierrors.NewNotFound(corev1.Resource("services"), name)
	rest, ok := strings.CutSuffix(strings.ToLower(name), ".svc."+domain+".")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 2 {
		return netip.Addr{}, none
	}
	service, err := s.client.CoreV1().Services(parts[1]).Get(ctx, parts[0], metav1.GetOptions{})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("looking for a service: %w", err)
	}
	address, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil || !address.Is4() {
		return netip.Addr{}, none // headless, or of another kind
	}
	return address, nil
}
