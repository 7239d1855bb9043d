package distribute

import (
	"github.com/istio-auth/istio-auth/rbac"
	"github.com/istio-auth/istio-auth/sds/stream"
)

// Before has f call it before each set is built, where its turn has come.
func (f *Filters) Before(call func(rbac.Set)) {
	build := f.build
	f.build = func(b *builder, set rbac.Set) ([]*stream.Resource, error) {
		call(set)
		return build(b, set)
	}
}

// FailBuilds has each build end with err.
func (f *Filters) FailBuilds(err error) {
	build := f.build
	f.build = func(b *builder, set rbac.Set) ([]*stream.Resource, error) {
		_, _ = build(b, set)
		return nil, err
	}
}
