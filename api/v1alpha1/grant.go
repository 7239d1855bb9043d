package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AccessGrant allows its subjects what a role permits, at the workloads that it
// selects. Like an AuthorizationPolicy that allows, it closes those workloads for
// all else.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=accessgrants,categories=istio-auth-io
// +kubebuilder:printcolumn:name=Role,type=string,JSONPath=.spec.roleRef.name
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=.metadata.creationTimestamp
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 200",message="the name has at most 200 characters"
type AccessGrant struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AccessGrantSpec `json:"spec"`
}

// AccessGrantList is a list of AccessGrant.
//
// +kubebuilder:object:root=true
type AccessGrantList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AccessGrant `json:"items"`
}

// AccessGrantSpec says who may do what, and where.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.endUsers) == self.subjects.exists(s, has(s.groups))",message="endUsers says where groups come from: it goes with a subject that has groups"
type AccessGrantSpec struct {
	// Selector says which workloads of the namespace it is for. None means all.
	//
	// +optional
	Selector *Selector `json:"selector,omitempty"`

	// RoleRef names the role. While there is no such role, the grant allows
	// nothing.
	RoleRef RoleRef `json:"roleRef"`

	// Subjects are alternatives.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Subjects []Subject `json:"subjects"`

	// EndUsers says where the groups of subjects are found.
	//
	// +optional
	EndUsers *EndUsers `json:"endUsers,omitempty"`

	// Expression must hold in addition.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Expression string `json:"expression,omitempty"`
}

// Selector selects workloads by their labels.
//
// +kubebuilder:pruning:PreserveUnknownFields
type Selector struct {
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	MatchLabels map[string]string `json:"matchLabels"`
}

// RoleRef names a role in the grant's own namespace, or in the root namespace.
//
// +kubebuilder:pruning:PreserveUnknownFields
type RoleRef struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=200
	Name string `json:"name"`

	// Namespace is empty for the grant's own, and otherwise the root namespace.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// Subject is a service, an end user, or a service on behalf of an end user: all
// of its fields must match, each by one of its values.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="[has(self.serviceAccounts), has(self.principals), has(self.namespaces)].filter(b, b).size() <= 1",message="serviceAccounts, principals and namespaces stand in subjects of their own"
// +kubebuilder:validation:XValidation:rule="[has(self.requestPrincipals), has(self.groups)].filter(b, b).size() <= 1",message="requestPrincipals and groups stand in subjects of their own"
// +kubebuilder:validation:XValidation:rule="has(self.serviceAccounts) || has(self.principals) || has(self.namespaces) || has(self.requestPrincipals) || has(self.groups)",message="a subject needs a field"
type Subject struct {
	// ServiceAccounts are "account" in the grant's namespace, or "namespace/account".
	//
	// +optional
	ServiceAccounts Values `json:"serviceAccounts,omitempty"`
	// Principals are SPIFFE IDs without their scheme.
	//
	// +optional
	Principals Values `json:"principals,omitempty"`
	// +optional
	Namespaces Values `json:"namespaces,omitempty"`

	// RequestPrincipals are end users, as "issuer/subject".
	//
	// +optional
	RequestPrincipals Values `json:"requestPrincipals,omitempty"`
	// Groups are of end users, as the claim of endUsers has them.
	//
	// +optional
	Groups Values `json:"groups,omitempty"`
}

// EndUsers says which tokens tell the groups of an end user.
//
// +kubebuilder:pruning:PreserveUnknownFields
type EndUsers struct {
	// Issuer is the "iss" of the tokens. Another issuer's groups are other groups.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2000
	Issuer string `json:"issuer"`

	// GroupsClaim is the claim that has them, "groups" unless it says otherwise. A
	// nested one is written [realm_access][roles].
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	GroupsClaim string `json:"groupsClaim,omitempty"`
}
