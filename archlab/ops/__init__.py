"""Operations that components share: one public function per module, with a readable reference next to it."""
