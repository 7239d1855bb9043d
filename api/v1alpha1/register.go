package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of every kind here.
var GroupVersion = schema.GroupVersion{Group: "istio-auth.io", Version: "v1alpha1"}

// AddToScheme makes the kinds known to a client's scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&AccessRole{}, &AccessRoleList{}, &AccessGrant{}, &AccessGrantList{}, &AccessRule{}, &AccessRuleList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
