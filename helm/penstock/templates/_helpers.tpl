{{- define "penstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "penstock.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ include "penstock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "penstock.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" .Values.gpu.enabled)) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{- define "penstock.trainerImage" -}}
{{- $image := .Values.retraining.image -}}
{{- $repository := $image.repository | default .Values.image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default (printf "%s-%s" .Chart.AppVersion (ternary "ray" "trainer" (ne .Values.retraining.ray.address "")))) -}}
{{- end -}}
{{- end -}}

{{- define "penstock.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "penstock.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "penstock.configMapName" -}}
{{- .Values.existingConfigMap | default (printf "%s-config" (include "penstock.fullname" .)) -}}
{{- end -}}

{{- /* The Secret whose keys become variables; empty when there is none. */ -}}
{{- define "penstock.secretName" -}}
{{- if .Values.secrets.existingSecret -}}
{{- .Values.secrets.existingSecret -}}
{{- else if or .Values.externalSecret.enabled .Values.secrets.values -}}
{{- include "penstock.fullname" . -}}-secrets
{{- end -}}
{{- end -}}

{{- /* The Secret with the secret between gateways and encoders: one of its own, or the gateway's. */ -}}
{{- define "penstock.encoderSecretName" -}}
{{- .Values.encoder.remote.secret.name | default (include "penstock.secretName" .) -}}
{{- end -}}

{{- define "penstock.artifactClaim" -}}
{{- .Values.artifact.volume.claimName | default (printf "%s-registry" (include "penstock.fullname" .)) -}}
{{- end -}}

{{- define "penstock.eventsClaim" -}}
{{- .Values.events.claimName | default (printf "%s-events" (include "penstock.fullname" .)) -}}
{{- end -}}

{{- /* Whether a pod publishes the image's router into an empty registry. */ -}}
{{- define "penstock.seeds" -}}
{{- $artifact := .Values.artifact -}}
{{- if and (eq $artifact.source "volume") $artifact.volume.seed (not $artifact.digest) (not $artifact.publicKey) }}yes{{ end -}}
{{- end -}}

{{- /* The gateway's configuration: what the values say, and what the chart decides. */ -}}
{{- define "penstock.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := merge (dict "host" "0.0.0.0" "port" 4000 "drain_seconds" (int .Values.drainSeconds)) ($config.server | default dict) -}}
{{- $_ := set $config "server" $server -}}
{{- $routing := $config.routing | default dict -}}
{{- if eq .Values.artifact.source "volume" -}}
{{- $routing = merge (dict "artifact" "/registry") $routing -}}
{{- else if eq .Values.artifact.source "http" -}}
{{- $routing = merge (dict "artifact" .Values.artifact.url) $routing -}}
{{- else if eq .Values.artifact.source "objectStore" -}}
{{- $routing = merge (dict "artifact" "/artifact/router") $routing -}}
{{- end -}}
{{- if ne .Values.artifact.source "image" -}}
{{- if .Values.artifact.digest -}}{{- $_ := set $routing "artifact_digest" .Values.artifact.digest -}}{{- end -}}
{{- if .Values.artifact.publicKey -}}{{- $_ := set $routing "artifact_public_key" .Values.artifact.publicKey -}}{{- end -}}
{{- end -}}
{{- if $routing -}}{{- $_ := set $config "routing" $routing -}}{{- end -}}
{{- if .Values.events.enabled -}}
{{- $_ := set $config "events" (merge (dict "folder" "/events") ($config.events | default dict)) -}}
{{- end -}}
{{- if .Values.encoder.remote.enabled -}}
{{- $remote := dict "remote" (printf "tcp://%s-encoder:7070" (include "penstock.fullname" .)) "secret" "${PENSTOCK_ENCODER_SECRET}" -}}
{{- $_ := set $config "encoder" (merge $remote ($config.encoder | default dict)) -}}
{{- end -}}
{{- if .Values.admin.enabled -}}
{{- $_ := set $config "admin" (merge (dict "host" "0.0.0.0" "port" (int .Values.admin.port)) ($config.admin | default dict)) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "penstock.podSecurityContext" -}}
{{- if .Values.openshift.enabled -}}
{{- omit .Values.podSecurityContext "runAsUser" "runAsGroup" "fsGroup" | toYaml -}}
{{- else -}}
{{- toYaml .Values.podSecurityContext -}}
{{- end -}}
{{- end -}}

{{- define "penstock.envFrom" -}}
{{- with include "penstock.secretName" . }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- with .Values.extraEnvFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "penstock.env" -}}
{{- if .Values.redis.development }}
- name: REDIS_URL
  value: redis://{{ include "penstock.fullname" . }}-redis:6379/0
{{- end }}
{{- if .Values.encoder.remote.enabled }}
- name: PENSTOCK_ENCODER_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ include "penstock.encoderSecretName" . }}
      key: {{ .Values.encoder.remote.secret.key }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "penstock.topologySpread" -}}
{{- if kindIs "invalid" .Values.topologySpreadConstraints -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "penstock.selector" . | nindent 6 }}
      app.kubernetes.io/component: gateway
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "penstock.selector" . | nindent 6 }}
      app.kubernetes.io/component: gateway
{{- else if .Values.topologySpreadConstraints -}}
{{- toYaml .Values.topologySpreadConstraints -}}
{{- end -}}
{{- end -}}
