"""LiteLLM's fields that Penstock has no setting for: why, and what comes nearest.

Owns tables only. Names are those of docs.litellm.ai/docs/proxy/config_settings and of the package, 1.105. Read
`reason_for`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from penstock_gateway.configuration_problems import nearest_match


class Reason(NamedTuple):
    """Why a field was not mapped, and what comes nearest."""

    note: str
    nearest: str = ""


_BY_CLOUD = (
    "cloud credentials and regions are not of one deployment here; litellm finds those of the process",
    "{} in the environment",
)
# Where litellm looks for what it is not given, docs.litellm.ai/docs/providers/{bedrock,vertex,azure}.
_CLOUD_VARIABLES: Final = {
    "vertex_project": "VERTEXAI_PROJECT",
    "vertex_ai_project": "VERTEXAI_PROJECT",
    "vertex_location": "VERTEXAI_LOCATION",
    "vertex_ai_location": "VERTEXAI_LOCATION",
    "vertex_credentials": "GOOGLE_APPLICATION_CREDENTIALS",
    "vertex_ai_credentials": "GOOGLE_APPLICATION_CREDENTIALS",
    "region_name": "AWS_REGION_NAME",
    "azure_ad_token": "AZURE_AD_TOKEN",
    **{name: f"AZURE_{name.upper()}" for name in ("tenant_id", "client_id", "client_secret")},
}
_CLOUD_FIELDS: Final = """
aws_access_key_id aws_secret_access_key aws_session_token aws_region_name aws_session_name aws_profile_name
aws_role_name aws_web_identity_token aws_sts_endpoint aws_external_id aws_session_tags aws_bedrock_runtime_endpoint
azure_scope azure_username azure_password watsonx_region_name project_id space_id oci_region oci_user oci_fingerprint
oci_tenancy oci_key oci_key_file oci_compartment_id
"""
_RATES = Reason(
    "a deployment has no limit of requests or tokens a minute; Penstock reacts to its 429s",
    "deployments[].max_parallel_requests, or limits of keys",
)
_PRICES = Reason("Penstock charges by token and by request only", "deployments[].price.per_request")
_SENT = Reason("Penstock sends what the client sends and adds no defaults", "let the client send it")
_LITELLM_ROUTERS = Reason("another kind of router", "model 'auto': docs/routing.md")
_CALLBACKS = Reason("Penstock sends its records nowhere by itself", "events.folder and events.ship, GET /metrics")
_DATABASE = Reason(
    "there is no SQL database: keys lie in a file or in Redis, spend in the event log", "accounts.store, events.folder"
)
_KEYS = Reason(
    "keys are not in the configuration of LiteLLM, and their defaults are not known here",
    "penstock keys create: docs/keys.md",
)
_UI = Reason("there is no such page or API", "admin.port: docs/keys.md")
_GUARD = Reason("Penstock checks no content", "a proxy in front of it, or the provider's own moderation")
_MCP = Reason("Penstock serves no tools", "let the client call them")
_HEALTH = Reason("Penstock learns from requests which deployment is well and sends none of its own", "attempts.breaker")
_ROUTES = Reason("the set of routes is fixed; keys say which models may be asked for", "client_keys[].allowed_models")
_ALERTS = Reason("Penstock sends no alerts", "alert on GET /metrics")
_CACHE = Reason("another kind of store", "cache.store")
_CATEGORY_CACHE = Reason("the decision rule is calibrated, not set by hand", "cache.categories.NAME.false_hit_budget")
_TAG_ROUTING = Reason("tags name who is charged, they do not choose a deployment", "client_keys[].allowed_models")
_SSL = Reason("certificates are checked against the system's authorities, always", "SSL_CERT_FILE in the environment")
_PER_MODEL_RETRIES = Reason("retries are counted for all deployments alike", "attempts.retries")
_DROPPING = Reason(
    "fields that a format does not have are left out and named in a response header; a parameter that a model refuses "
    "sends 'auto' elsewhere",
    "deployments[].parameters",
)
_LONGEST_NAME: Final = 64  # of what is compared with known names
_BATCH = Reason("Penstock has no batch, file or fine-tuning endpoints")
_NO_COUNTERPART = Reason("Penstock has nothing like it")


def _table(*groups: tuple[Reason, str]) -> dict[str, Reason]:
    return {name: reason for reason, names in groups for name in names.split()}


PARAMETERS: Final = {
    name: Reason(_BY_CLOUD[0], _BY_CLOUD[1].format(_CLOUD_VARIABLES.get(name, name.upper())))
    for name in (*_CLOUD_VARIABLES, *_CLOUD_FIELDS.split())
} | _table(
    (_RATES, "rpm tpm itpm otpm"),
    (Reason("within a group the cheapest or the quickest is taken, by measurement", "attempts.balance"), "weight"),
    (Reason("one group has no order", "deployments[].fallbacks"), "order"),
    (
        _PRICES,
        "input_cost_per_second output_cost_per_second input_cost_per_image output_cost_per_image "
        "input_cost_per_pixel output_cost_per_pixel input_cost_per_character output_cost_per_character "
        "cost_per_second ocr_cost_per_page search_context_cost_per_query citation_cost_per_token tiered_pricing",
    ),
    (
        _SENT,
        "temperature top_p top_k max_tokens max_completion_tokens stop seed n frequency_penalty presence_penalty "
        "logit_bias response_format tools tool_choice reasoning_effort thinking user metadata extra_body verbosity "
        "service_tier safety_settings guided_json chat_template_kwargs num_ctx keep_alive dimensions "
        "encoding_format stream prompt_id prompt_variables modalities",
    ),
    (_PER_MODEL_RETRIES, "max_retries num_retries"),
    (_TAG_ROUTING, "tags tag_regex"),
    (_DROPPING, "drop_params additional_drop_params allowed_openai_params modify_params"),
    (
        Reason("a budget belongs to a key, a team or a tag, not to a deployment", "tags[].budgets"),
        "max_budget budget_duration",
    ),
    (
        _LITELLM_ROUTERS,
        "auto_router_config auto_router_config_path auto_router_default_model auto_router_embedding_model "
        "complexity_router_config complexity_router_default_model adaptive_router_config quality_router_config",
    ),
    (_HEALTH, "cooldown_time allowed_fails"),
    (
        _BATCH,
        "s3_bucket_name s3_region_name s3_access_key_id s3_secret_access_key gcs_bucket_name aws_batch_role_arn "
        "s3_endpoint_url s3_encryption_key_id max_file_size_mb use_in_pass_through",
    ),
    (Reason("Penstock simulates providers only in its demo", "penstock demo"), "mock_response mock_timeout"),
    (
        Reason("clients can never set an address or a credential"),
        "configurable_clientside_auth_params",
    ),
    (_SSL, "ssl_verify ssl_certificate"),
    (_GUARD, "guardrails"),
    (Reason("reasoning is passed on as the provider sends it"), "merge_reasoning_content_in_choices"),
    (
        _NO_COUNTERPART,
        "litellm_trace_id keepalive_seconds timeout_by_service_tier "
        "stream_timeout_by_service_tier provider_affinity_header vector_store_id use_litellm_proxy",
    ),
)
MODEL_INFO: Final = _table(
    (
        Reason("a deployment has no notes; the field is for people", "a comment in the file"),
        "description metadata tier db_model created_at created_by updated_at updated_by litellm_provider key",
    ),
    (
        Reason("keys name the models they may ask for", "client_keys[].allowed_models"),
        "access_groups team_id team_public_model_name access_windows member_auto_router",
    ),
    (_HEALTH, "health_check_model health_check_timeout disable_background_health_check health_check_max_tokens"),
    (Reason("a model is not offered when it is not in the file", "deployments[].routable"), "blocked discoverable"),
    (_RATES, "rpm tpm"),
    (_PRICES, "ptu_count cost_per_ptu_per_hour"),
    (
        Reason("Penstock has no ability of that name", "deployments[].abilities"),
        "supports_prompt_caching supports_reasoning "
        "supports_web_search supports_computer_use supports_parallel_function_calling supports_tool_choice "
        "supports_system_messages supports_assistant_prefill supports_audio_output supports_embedding_image_input "
        "supports_url_context supported_openai_params supported_endpoints supports_none_reasoning_effort",
    ),
    (Reason("the size of vectors is the provider's", ""), "output_vector_size"),
)
LITELLM: Final = _table(
    (
        _CALLBACKS,
        "success_callback failure_callback service_callback callbacks input_callback audit_log_callbacks "
        "langfuse_default_tags s3_callback_params datadog_params callback_settings generic_logger_headers "
        "cold_storage_custom_logger default_team_settings enable_langfuse_default_tags prometheus_metrics_config "
        "custom_prometheus_metadata_labels service_callbacks store_audit_logs log_raw_request_response",
    ),
    (_DROPPING, "drop_params modify_params"),
    (_SSL, "ssl_verify ssl_certificate ssl_security_level force_ipv4"),
    (
        _KEYS,
        "default_internal_user_params default_team_params default_key_generate_params upperbound_key_generate_params "
        "max_internal_user_budget internal_user_budget_duration max_user_budget key_generation_settings "
        "default_max_internal_user_budget max_end_user_budget "
        "max_end_user_budget_id default_soft_budget tag_budget_config",
    ),
    (
        _GUARD,
        "guardrails blocked_user_list banned_keywords_list llamaguard_model_name llm_guard_mode "
        "google_moderation_confidence_threshold openai_moderations_model_name post_call_rules pre_call_rules "
        "presidio_ad_hoc_recognizers output_parse_pii",
    ),
    (
        Reason(
            "a provider's refusal of the content is the answer; another model is not asked", "deployments[].fallbacks"
        ),
        "content_policy_fallbacks",
    ),
    (Reason("the number of fallbacks is bounded by tries in all", "attempts.max_attempts"), "max_fallbacks"),
    (Reason("model names are those of the deployments", "deployments[].group"), "model_alias_map"),
    (
        Reason("prices come with the package and do not change by themselves", "deployments[].price"),
        "model_cost_map_url",
    ),
    (_UI, "public_model_groups public_model_groups_links"),
    (Reason("prices are the provider's", "deployments[].price"), "cost_discount_config cost_margin_config"),
    (
        _NO_COUNTERPART,
        "enable_preview_features add_function_to_prompt vector_store_registry custom_provider_map "
        "priority_reservation forward_traceparent_to_llm_provider enable_json_schema_validation",
    ),
    (Reason("an error has its own shape and no traceback"), "log_client_error_tracebacks suppress_debug_info"),
    (
        Reason("provider caches are used as clients ask for them"),
        "enable_anthropic_prompt_caching disable_anthropic_gemini_context_caching_transform",
    ),
    (
        Reason("headers are passed on by name only", "docs/clients.md"),
        "add_user_information_to_llm_headers return_response_headers extra_spend_tag_headers",
    ),
)
CACHE_PARAMS: Final = _table(
    (
        Reason("a time to live belongs to a category of requests", "cache.categories.NAME.ttl_seconds"),
        "ttl default_in_memory_ttl default_in_redis_ttl",
    ),
    (_CATEGORY_CACHE, "similarity_threshold"),
    (
        Reason("the encoder is bundled and runs in the gateway", "routing.encoder, cache.verifier"),
        "redis_semantic_cache_embedding_model "
        "qdrant_semantic_cache_embedding_model "
        "semantic_cache_embedding_timeout semantic_cache_embedding_max_input_tokens",
    ),
    (
        _CACHE,
        "qdrant_api_base qdrant_api_key qdrant_collection_name "
        "qdrant_quantization_config disk_cache_dir s3_bucket_name "
        "s3_region_name s3_endpoint_url s3_aws_access_key_id s3_aws_secret_access_key s3_path gcs_bucket_name "
        "gcs_path_service_account gcs_path azure_account_url azure_blob_container redis_startup_nodes service_name "
        "sentinel_nodes sentinel_password redis_semantic_cache_index_name "
        "redis_flush_size max_connections gcp_service_account",
    ),
    (Reason("only answers of chat models are kept", "cache.mode"), "supported_call_types"),
    (Reason("entries are apart by tenant and context", "ledger.organisation"), "namespace"),
    (Reason("look-ups are on for every request, and a client may say no", "x-penstock-cache: docs/cache.md"), "mode"),
)
ROUTER: Final = _table(
    (Reason("what is measured decides; there is nothing to set", "attempts.balance"), "routing_strategy_args weights"),
    (_LITELLM_ROUTERS, "routing_groups auto_router_capability_limit"),
    (
        _HEALTH,
        "disable_cooldowns enable_health_check_routing health_check_staleness_threshold "
        "background_health_check_model_groups",
    ),
    (
        Reason("a refused content is the answer; another model is not asked", "deployments[].fallbacks"),
        "content_policy_fallbacks",
    ),
    (Reason("retries are the same for all models", "attempts.retries"), "model_group_retry_policy"),
    (Reason("failures of every kind count alike", "attempts.breaker.consecutive_failures"), "allowed_fails_policy"),
    (Reason("the number of fallbacks is bounded by tries in all", "attempts.max_attempts"), "max_fallbacks"),
    (_TAG_ROUTING, "enable_tag_filtering tag_filtering_match_any tag_routing_prefix"),
    (Reason("a budget belongs to a key, a team or a tag", "tags[].budgets"), "provider_budget_config"),
    (_SENT, "default_litellm_params"),
    (_ALERTS, "alerting_config"),
    (Reason("a key has a priority", "client_keys[].priority"), "default_priority polling_interval"),
    (
        Reason("conversations stay with their deployment by themselves", "attempts.balance.affinity_factor"),
        "model_group_affinity_config deployment_affinity_ttl_seconds optional_pre_call_checks",
    ),
    (
        _NO_COUNTERPART,
        "client_ttl assistants_config search_tools guardrail_list plugins caching_groups cache_kwargs "
        "router_general_settings ignore_invalid_deployments enable_weighted_failover",
    ),
    (Reason("the gateway's cache is one for all", "cache.mode"), "cache_responses"),
)
GENERAL: Final = _table(
    (
        _DATABASE,
        "database_url database_connection_pool_limit database_connection_timeout database_type database_args "
        "store_model_in_db store_prompts_in_spend_logs disable_spend_logs disable_spend_updates proxy_batch_write_at "
        "allow_requests_on_db_unavailable maximum_spend_logs_retention_period maximum_spend_logs_retention_interval "
        "use_redis_transaction_buffer disable_prisma_schema_update supported_db_objects disable_error_logs",
    ),
    (_ALERTS, "alerting alert_types alerting_threshold alert_to_webhook_url alerting_args spend_report_frequency"),
    (
        _HEALTH,
        "background_health_checks health_check_interval health_check_concurrency health_check_details "
        "use_shared_health_check",
    ),
    (_ROUTES, "allowed_routes public_routes admin_only_routes allowed_ips"),
    (_UI, "ui_access_mode ui_settings enable_public_model_hub disable_admin_ui"),
    (
        Reason("keys are checked by Penstock alone", "accounts, client_keys: docs/keys.md"),
        "custom_auth custom_key_generate custom_sso "
        "enable_jwt_auth litellm_jwtauth enable_oauth2_auth "
        "service_account_settings user_header_name user_header_mappings "
        "litellm_key_header_name enforce_user_param enforced_params custom_auth_run_common_checks",
    ),
    (
        Reason("secrets come from the environment or from files", "deployments[].api_key_file"),
        "key_management_system key_management_settings use_azure_key_vault use_google_kms",
    ),
    (
        Reason("only known endpoints lead to a provider"),
        "pass_through_endpoints pass_through_request_timeout use_client_credentials_pass_through_routes",
    ),
    (
        Reason("a client's headers are not passed on, but for a few by name", "docs/clients.md"),
        "forward_client_headers_to_llm_api forward_openai_org_id forward_llm_provider_auth_headers",
    ),
    (Reason("a request names its model", "routing.default_arm"), "completion_model infer_model_from_keys"),
    (Reason("a reply is passed on while it arrives"), "max_response_size_mb"),
    (_BATCH, "max_file_size_mb max_batch_file_size_mb"),
    (_MCP, "mcp_internal_ip_ranges mcp_allowed_clients mcp_client_id_header"),
    (_CALLBACKS, "otel"),
    (_KEYS, "default_team_disabled user_api_key_cache_ttl user_api_key_cache_max_size"),
    (
        _NO_COUNTERPART,
        "coordination_redis fail_closed_rate_limit_enforcement reject_clientside_metadata_tags "
        "dangerously_permit_weak_or_unset_master_key "
        "proxy_budget_rescheduler_min_time proxy_budget_rescheduler_max_time",
    ),
)
SECTIONS: Final = _table(
    (_GUARD, "guardrails policies policy_attachments"),
    (_MCP, "mcp_servers mcp_tools mcp_aliases search_tools"),
    (_CALLBACKS, "callback_settings"),
    (_BATCH, "files_settings finetune_settings batch_settings"),
    (
        Reason("Penstock sets no variables; it refers to those that are there", "export it before the start"),
        "environment_variables",
    ),
    (
        _NO_COUNTERPART,
        "assistant_settings vector_store_registry prompts agent_list agents worker_registry "
        "vector_store_index_registry",
    ),
)
TABLES: Final = {
    "litellm_params": PARAMETERS,
    "model_info": MODEL_INFO,
    "litellm_settings": LITELLM,
    "cache_params": CACHE_PARAMS,
    "router_settings": ROUTER,
    "general_settings": GENERAL,
    "": SECTIONS,
}
"""Section of LiteLLM's file → field → reason."""


@lru_cache(maxsize=1024)
def _nearest(section: str, name: str, mapped: tuple[str, ...]) -> str | None:
    return nearest_match(name, [*mapped, *TABLES[section]])


def reason_for(section: str, name: str, mapped: tuple[str, ...]) -> Reason:
    """Return why a field of a section was not mapped.

    Parameters
    ----------
    section : str
        One of `TABLES`.
    name : str
        The field.
    mapped : tuple of str
        Fields of the section that can be mapped, for the nearest match of an unknown one.

    Returns
    -------
    Reason
    """
    found = TABLES[section].get(name)
    if found is not None:
        return found
    if name in mapped:
        return Reason("has no fields that could be mapped")
    match = _nearest(section, name[:_LONGEST_NAME], mapped)
    where = (
        f"{section} has no field of that name that is known here"
        if section
        else "no section of LiteLLM's that is known here"
    )
    return Reason(where, f"did you mean {match}?" if match else "")
