package nodeagent

import (
	"context"
	"crypto/x509"

	"github.com/istio-auth/istio-auth/ca/client"
	"github.com/istio-auth/istio-auth/nodeagent"
)

// issuer is the CA's client as the agent sees it.
type issuer struct{ *client.Client }

var _ nodeagent.Issuer = issuer{}

// Issue is [nodeagent.Issuer].
func (i issuer) Issue(ctx context.Context, r nodeagent.Request) ([]*x509.Certificate, error) {
	return i.Client.Issue(ctx, client.Request(r))
}
