"""Models that lie with other servers, behind the ports of models that lie here."""
