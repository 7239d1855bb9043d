package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AccessRole is a set of permissions that grants of its namespace can give, and
// if it is in the root namespace, those of every namespace. By itself it allows
// nothing.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=accessroles,categories=istio-auth-io
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=.metadata.creationTimestamp
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 200",message="the name has at most 200 characters"
type AccessRole struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec AccessRoleSpec `json:"spec"`
}

// AccessRoleList is a list of AccessRole.
//
// +kubebuilder:object:root=true
type AccessRoleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AccessRole `json:"items"`
}

// AccessRoleSpec is what a role allows.
//
// +kubebuilder:pruning:PreserveUnknownFields
type AccessRoleSpec struct {
	// Permissions are alternatives: a request needs one of them.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Permissions []Permission `json:"permissions"`
}

// Permission allows a request that is one of the operations, meets every
// condition, and satisfies the expression.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.operations) || has(self.when) || has(self.expression)",message="a permission needs operations, when or expression"
type Permission struct {
	// Operations are alternatives. None means every operation.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Operations []Operation `json:"operations,omitempty"`

	// When are conditions that all must hold.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	When []Condition `json:"when,omitempty"`

	// Expression is a condition in CEL over the attributes of a request, as
	// request.path.startsWith("/users/" + request.auth.claims["sub"] + "/").
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Expression string `json:"expression,omitempty"`
}

// Values are those that a field of a rule is compared with.
//
// +kubebuilder:validation:MinItems=1
// +kubebuilder:validation:MaxItems=256
// +kubebuilder:validation:items:MinLength=1
// +kubebuilder:validation:items:MaxLength=8192
type Values []string

// Operation is what an AuthorizationPolicy has under to. Its fields must all
// match, each by one of its values.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.hosts) || has(self.notHosts) || has(self.ports) || has(self.notPorts) || has(self.methods) || has(self.notMethods) || has(self.paths) || has(self.notPaths)",message="an operation needs hosts, ports, methods or paths"
type Operation struct {
	// +optional
	Hosts Values `json:"hosts,omitempty"`
	// +optional
	NotHosts Values `json:"notHosts,omitempty"`
	// +optional
	Ports Values `json:"ports,omitempty"`
	// +optional
	NotPorts Values `json:"notPorts,omitempty"`
	// +optional
	Methods Values `json:"methods,omitempty"`
	// +optional
	NotMethods Values `json:"notMethods,omitempty"`
	// +optional
	Paths Values `json:"paths,omitempty"`
	// +optional
	NotPaths Values `json:"notPaths,omitempty"`
}

// Condition is what an AuthorizationPolicy has under when.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.values) || has(self.notValues)",message="a condition needs values or notValues"
type Condition struct {
	// Key names an attribute, as request.headers[x-env].
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Key string `json:"key"`
	// +optional
	Values Values `json:"values,omitempty"`
	// +optional
	NotValues Values `json:"notValues,omitempty"`
}
