"""The command ``condensenet``. Nothing imports it; each command imports what it needs when it runs."""
