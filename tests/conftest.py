"""What all tests share: properties are drawn however slow the machine is, for the suite runs beside itself."""

from hypothesis import HealthCheck, settings

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
